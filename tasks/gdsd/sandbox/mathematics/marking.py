r"""Finds the words of a formula that stand in it without `\text{}`, and puts them there.

`5 apples or 6`, `Evelyn` and `4:30 PM` have words. `2pi` and `sqrt(2)` have commands without their backslash. What is
left are letters: `xy` is a product.
"""

import re

from tasks.gdsd.sandbox.mathematics import terms, words

JOINING = frozenset(["and", "or"])
COMMANDS = frozenset(terms.FUNCTIONS) | {"pi", "sqrt", "theta", "alpha", "beta", "infty", "cup", "cap"}
INFINITY = ("infinity", "inf", "oo")

PHRASE = re.compile(r"[A-Za-z][A-Za-z .'-]*")
BARE = re.compile(rf"(?:{terms.WORDS}|{terms.ENVIRONMENT}|\\[A-Za-z]+)|(?P<word>[A-Za-z]+)")
UNIT = re.compile(  # behind a number, and before an exponent, a sign between things, the next number or the end
    r"(?:(?<=[0-9}).])|(?<=\\pi)) ?((?:[A-Za-z]{2,}|[ap]\.m)(?:[ /.]{1,2}[A-Za-z]+)*\.?)"
    r"(?=\s*(?:[\^,;)\]0-9]|$|\\text))"
)
HALF = re.compile(r"([ap])\.m\b")
FEET = re.compile(r"([0-9][^']*)'(?!') ?")
INCHES = re.compile(r"([0-9][^']*?) ?(?:''|\")")
UNION = re.compile(r"(?<=[)\]]) ?U ?(?=[(\[])")
IN_BASE = re.compile(r"(?<!\{)(?<!\{ )\((base [0-9a-z]+)\)")
ORDINAL = re.compile(r"\^\s*\{?\s*(\\text\s*\{(?:st|nd|rd|th)\})\s*\}?")
SCALE = re.compile(r"(\^\s*\{?\s*\\circ\s*\}?)\s*([CFK])(?![A-Za-z])")  # 20^\circ C
NAME = r"\\(?:text|mathrm)\s*\{([^{}]*)\}"
PER = re.compile(rf"\\frac\s*\{{\s*{NAME}\s*\}}\s*\{{\s*{NAME}\s*\}}|{NAME}\s*/\s*{NAME}")
GROUPED = re.compile(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")


def without_commas(text: str) -> str:
    """Takes commas between thousands out, but for a pair in brackets such as (1,234)."""

    def joined(match: re.Match[str]) -> str:
        pair = text[: match.start()].endswith("(") and text[match.end() :].startswith(")")
        return match[0] if pair else match[0].replace(",", "")

    return GROUPED.sub(joined, text)


def measured(text: str) -> str:
    r"""Writes out the marks of feet and inches, as in 5'10''; behind letters and degrees a mark says another thing."""
    if not re.search(r"['\"]", text) or re.search(r"(?<!\\)\b[A-Za-z]|_|\\circ", text):
        return text
    feet = FEET.match(text)
    rest = text[feet.end() :] if feet else text
    inches = INCHES.fullmatch(rest)
    if rest and not inches:
        return text
    return (f"{feet[1]}\\text{{ ft }}" if feet else "") + (f"{inches[1]}\\text{{ in}}" if inches else "")


def marked(text: str) -> str:
    r"""Puts bare words into `\text{}`, and functions behind a backslash."""
    longest = max(re.findall("[A-Za-z]+", text), key=len, default="")
    if PHRASE.fullmatch(text) and (len(longest) > 3 or text.lower() in words.SHORT) and text.lower() not in COMMANDS:
        return f"\\text{{{text}}}"
    text = UNION.sub(r"\\cup ", text)
    text = SCALE.sub(r"\1\\text{\2}", text)
    text = ORDINAL.sub(r"\1", PER.sub(r"\\text{\1\3/\2\4}", IN_BASE.sub(r"\\text{\1}", text)))
    return BARE.sub(_bare, UNIT.sub(_unit, text))


def _bare(match: re.Match[str]) -> str:
    word = match["word"]
    if word is None:
        return match[0]
    if word.lower() in JOINING:
        return f"\\text{{ {word} }}"
    if word.lower() in INFINITY:
        return r"\infty "
    return f"\\{word} " if word in COMMANDS else word


def _unit(match: re.Match[str]) -> str:
    """Marks what is a unit's name or spelled like a word: `5cm`, `5 apples`; and leaves 5ab and 2sin."""
    first = re.split(r"[ /.]", HALF.sub(r"\1m", match[1]))[0]
    known = words.unit(first) in words.SPELLINGS or first.lower() in words.TELLING | words.SCALES.keys()
    spelled = len(first) > (2 if match[0].startswith(" ") else 3) and first not in COMMANDS
    if first.lower() in JOINING or not (known or spelled):
        return match[0]
    return f"\\text{{ {match[1]}}}"
