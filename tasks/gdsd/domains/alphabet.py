"""The characters of the tiny family, apart from its tokenizer, which takes a second to import."""

import string
import unicodedata
from collections.abc import Container, Iterable

from tasks.gdsd.errors import DataError

END, PAD, MASK = "<end>", "<pad>", "<mask>"
ALPHABET = string.digits + "+-*/()=., :|" + string.ascii_lowercase
LARGEST = 8192  # characters of an alphabet; GB 2312 has 6763 of Chinese, JIS X 0208 has 6355 of Japanese
LISTED = 3  # characters that a message names
NEAR = 12  # characters that a message quotes before and behind one


def of_texts(texts: Iterable[str]) -> str:
    """Returns the characters of texts in the order of their numbers, each as it stands and once.

    Raises:
        DataError: there are more than `LARGEST`.
    """
    found: set[str] = set().union(*texts)
    if len(found) > LARGEST:
        raise DataError(
            f"the prompts and references have {len(found)} different characters, but the alphabet of a tiny policy has "
            f"at most {LARGEST}; name a published model by policy.model, whose tokenizer reads every text"
        )
    return "".join(sorted(found))


def lacking(text: str, known: Container[str]) -> str | None:
    """Says which characters of a text are not known, and where the first stands; None where all are."""
    unknown = [place for place, character in enumerate(text) if character not in known]
    if not unknown:
        return None
    characters = list(dict.fromkeys(text[place] for place in unknown))
    listed = ", ".join(map(_named, characters[:LISTED]))
    more = f" and {len(characters) - LISTED} more" if len(characters) > LISTED else ""
    near = text[max(unknown[0] - NEAR, 0) : unknown[0] + NEAR]
    return f"{listed}{more}, near {near!r}"


def _named(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"{character!r} (U+{ord(character):04X}{' ' * bool(name)}{name})"
