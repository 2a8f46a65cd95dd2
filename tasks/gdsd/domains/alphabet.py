"""The characters of the tiny family, apart from its tokenizer, which takes a second to import."""

import string

END, PAD, MASK = "<end>", "<pad>", "<mask>"
ALPHABET = string.digits + "+-*/()=., :|" + string.ascii_lowercase
