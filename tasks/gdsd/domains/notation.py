r"""How answers are written: one plain form of LaTeX for the many ways of writing the same.

`plain` is the single place where the text of an answer and that of a reference are normalised. It changes how a thing
is written and not what is said: only layout, and what stands around the whole, is taken off. It takes time linear in
the text and raises nothing.
"""

import math
import re
import unicodedata
from decimal import Decimal
from functools import lru_cache
from itertools import groupby

from tasks.gdsd.domains import answers
from tasks.gdsd.errors import DataError

LAYERS = 8  # wrappers that are taken off an answer: `**$\boxed{5}$**` has three

# By their names, since many of them look like ASCII.
SIGNS = {
    **{"MINUS SIGN": "-", "DIVISION SLASH": "/", "FRACTION SLASH": "/", "RATIO": ":", "ASTERISK OPERATOR": "*"},
    **{"MULTIPLICATION SIGN": r"\times", "MIDDLE DOT": r"\cdot", "DOT OPERATOR": r"\cdot", "BULLET": r"\cdot"},
    **{"BULLET OPERATOR": r"\cdot", "MULTIPLICATION X": r"\times", "DIVISION SIGN": r"\div"},
    **{"PLUS-MINUS SIGN": r"\pm", "MINUS-OR-PLUS SIGN": r"\mp", "SQUARE ROOT": r"\sqrt", "CUBE ROOT": r"\sqrt[3]"},
    **{"LESS-THAN OR EQUAL TO": r"\le", "LESS-THAN OR SLANTED EQUAL TO": r"\le", "NOT EQUAL TO": r"\ne"},
    **{"GREATER-THAN OR EQUAL TO": r"\ge", "GREATER-THAN OR SLANTED EQUAL TO": r"\ge", "ALMOST EQUAL TO": r"\approx"},
    **{"UNION": r"\cup", "INTERSECTION": r"\cap", "SET MINUS": r"\setminus", "INFINITY": r"\infty"},
    **{"EMPTY SET": r"\emptyset", "ELEMENT OF": r"\in", "ANGLE": r"\angle", "WHITE UP-POINTING TRIANGLE": r"\triangle"},
    **{"DEGREE SIGN": r"^\circ", "MASCULINE ORDINAL INDICATOR": r"^\circ", "RING ABOVE": r"^\circ"},
    **{"LEFT FLOOR": r"\lfloor", "RIGHT FLOOR": r"\rfloor", "LEFT CEILING": r"\lceil", "RIGHT CEILING": r"\rceil"},
    **{"MATHEMATICAL LEFT ANGLE BRACKET": r"\langle", "MATHEMATICAL RIGHT ANGLE BRACKET": r"\rangle"},
    **{"HORIZONTAL ELLIPSIS": r"\ldots", "MIDLINE HORIZONTAL ELLIPSIS": r"\ldots", "MICRO SIGN": r"\mu"},
    **{"DIVIDES": "|", "PRIME": "'", "LEFT SINGLE QUOTATION MARK": "'", "RIGHT SINGLE QUOTATION MARK": "'"},
    **{
        "LEFT DOUBLE QUOTATION MARK": '"',
        "RIGHT DOUBLE QUOTATION MARK": '"',
        "IDEOGRAPHIC FULL STOP": ".",
        "DOUBLE PRIME": "''",
    },
    **{f"DOUBLE-STRUCK CAPITAL {letter}": rf"\mathbb{{{letter}}}" for letter in "RZQNC"},
}
GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)|GREEK (PHI|THETA|LUNATE EPSILON) SYMBOL")
FOREIGN = re.compile(r"[^\x00-\x7f]+")
BLANKS = re.compile(r"\s+")

# Commands that say the same, and those that say nothing.
SAME = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "sfrac", "nicefrac"), r"\frac"),
    **{"leq": r"\le", "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge", "neq": r"\ne", "lt": "<", "gt": ">"},
    **{"varnothing": r"\emptyset", "dbinom": r"\binom", "tbinom": r"\binom", "varepsilon": r"\epsilon"},
    **{"varphi": r"\phi", "vartheta": r"\theta", "degree": r"^\circ", "deg": r"^\circ"},
    **{"mid": "|", "vert": "|", "colon": ":"},
    **{"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "backslash": r"\setminus", "ast": "*"},
    **{"dots": r"\ldots", "cdots": r"\ldots", "dotsc": r"\ldots", "prime": "'", "fbox": r"\boxed", "infin": r"\infty"},
    **{f"{kind}dollar": r"\$" for kind in ("text", "math")},
    **{"pounds": "£", "textsterling": "£", "euro": "€", "texteuro": "€", "yen": "¥", "textyen": "¥", "textcent": "¢"},
    **{"R": r"\mathbb{R}", "cr": r"\\ "},
    **dict.fromkeys(("mathbf", "bm", "boldsymbol", "bold", "mathit", "mathsf"), r"\boxed"),  # which says nothing either
    **dict.fromkeys(("mbox", "hbox", "textbf", "textrm", "textit", "textnormal", "textsf", "emph"), r"\text"),
    **dict.fromkeys(("left", "right", "mleft", "mright", "displaystyle", "textstyle", "limits", "nolimits"), ""),
    **{f"{size}{side}": "" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r")},
    **dict.fromkeys(("tiny", "small", "normalsize", "large", "Large", "LARGE", "huge", "Huge", "bf", "it"), ""),
    **dict.fromkeys(("quad", "qquad", "enspace", "thinspace", "space"), " "),
}
COMMAND = re.compile(
    r"\\\\(?:\s*\[-?[0-9.]+[a-z]{2}\])?|\\(?:text)?color\s*\{[A-Za-z0-9!]*\}|\\(?:([A-Za-z]+)\s*|[,;: ]|(!))|~"
)
BARS = re.compile(r"\\(?:(left|mleft|bigl|Bigl)|right|mright|bigr|Bigr)\s*(?:\||\\vert(?![A-Za-z]))")
DIGITS = re.compile(
    r"(?<![0-9.,])[0-9]{1,3}(?:(?: ?\{,\} ?(?:\\! ?)?|, ?\\! ?|\\[,!;: ]|\\thinspace ?|~)[0-9]{3})+(?![0-9])"  # 1{,}234
    r"|(?<![0-9.,/^_}] )(?<![0-9.,/^_}])[0-9]{1,3}(?: [0-9]{3})+(?![0-9/]| [0-9])"  # 1 234
)
ABOUT = re.compile(r"(?<![A-Za-z0-9.,;)}\]%])~(?= ?[-+]? ?\\?\$? ?[.0-9])")  # ~18 is about 18, but 5~cm has a space
COMPARED = re.compile(r"<=|>=|(?<![0-9a-z)])!=|\*\*|\^\^|(?<![a-z])\{[:.=]\}")
PLAINER = {"<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "**": "^", "^^": "^", "{:}": ":", "{.}": ".", "{=}": "="}
WRAPPERS = (
    ("```", "```"),
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("*", "*"),
    ("__", "__"),
    ("_", "_"),
    ("`", "`"),
    ("{", "}"),
    ('"', '"'),
    ("'", "'"),
)
STYLED = re.compile(r"\\(?:text|mathrm|underline)\s*\{((?:[^{}A-Za-z\\]|\\[$%])+)\}")
SIGN = re.compile(r"\\(?:text|mathrm)\s*\{\s*(\\[$%])\s*\}")  # a number in words is a number
ENDS = re.compile(r"(?:(?<!\.)\.|\\{1,2}|\\text\{[ .,;]*\})\Z")
# What says that the answer follows: `Answer:`, `**Final answer:**`, `\text{The answer is }`, or an equals sign alone.
LABEL = re.compile(
    r"""
    (?P<open>\*\*|__|[*_]|\\[a-z]{4,9}\{)?\s*+  # bold, or a command such as \text{
    (?i:(?:(?:so|thus|hence|therefore),?\s++)?(?:(?:the|my|our)\s++)?(?:(?:final|correct)\s++)?
    (?:answer|ans|result|solution|expression|equation))
    (?P<sign>\s*+(?:(?:is|equals)\b\s*+[:=]?|[:=]))?\s*+  # in what was opened
    (?P<close>(?(open)(?:\*\*|__|[*_}])?))
    (?(sign)|\s*+(?:is\b\s*+[:=]?|[:=]))\s*+  # or behind it
    |(?:=(?![=<>~])|\\(?:therefore|implies|Rightarrow)(?![A-Za-z]))\s*+
    """,
    re.VERBOSE,
)
DOLLAR = re.compile(r"(?<!\\)\$")


def plain(text: str) -> str:
    """Returns a text in the plain form: Unicode signs as LaTeX, each thing by one command, and nothing around it."""
    text = FOREIGN.sub(lambda run: _latex(run[0]), text)
    text = DIGITS.sub(lambda number: re.sub("[^0-9]", "", number[0]), BLANKS.sub(" ", text))
    text = ABOUT.sub(r"\\approx ", text)
    text = BARS.sub(lambda bar: r"\lvert " if bar[1] else r"\rvert ", text)
    text = BLANKS.sub(" ", COMMAND.sub(_command, text))  # `5 \, cm` has three by now
    text = _delimited(_unwrapped(text))
    text = SIGN.sub(r"\1", text)
    return COMPARED.sub(lambda sign: PLAINER[sign[0]], text)  # after bold, which has the sign of a power


def _latex(run: str) -> str:
    parts = []
    for kind, pairs in groupby(map(_sign, run), key=lambda pair: pair[0]):
        joined = "".join(text for _, text in pairs)
        parts.append(f"{kind}{{{joined}}}" if kind else joined)
    return "".join(parts)


@lru_cache(maxsize=4096)
def _sign(character: str) -> tuple[str, str]:
    """Returns `^` or `_` for what stands high or low, and a character's LaTeX; unknown characters stay."""
    name, category = unicodedata.name(character, ""), unicodedata.category(character)
    tag, *codes = unicodedata.decomposition(character).split() or [""]
    letters = "".join(chr(int(code, 16)) for code in codes) if tag.startswith("<") else ""
    if name in SIGNS:
        return "", f"{SIGNS[name]} " if SIGNS[name].startswith("\\") else SIGNS[name]
    if match := GREEK.fullmatch(name):
        letter = (match[2] or match[3].split()[-1]).lower().replace("lamda", "lambda")
        return "", f"\\{letter.capitalize() if match[1] == 'CAPITAL' else letter} "
    if tag in ("<super>", "<sub>"):
        return "^" if tag == "<super>" else "_", letters.replace("\N{MINUS SIGN}", "-")
    if tag == "<fraction>":
        over, _, under = letters.partition("\N{FRACTION SLASH}")
        return "", f"\\frac{{{over}}}{{{under}}}"
    if category == "Zs" or (category == "Cf" and unicodedata.bidirectional(character) == "BN"):
        return "", " "  # also where it has no width; what turns the direction of writing is no space
    if category == "Pd":
        return "", "-"
    wide = tag in ("<font>", "<wide>") and letters.isascii() and not (tag == "<wide>" and letters.isdigit())
    return "", letters if wide else character


def _command(match: re.Match[str]) -> str:
    name = match[1]
    if match[0].startswith(r"\\"):
        return r"\\ "  # the end of a row of a matrix
    if name is None:
        return "" if match[2] else " "
    text = SAME.get(name, f"\\{name}")
    following = match.string[match.end() : match.end() + 1]
    return f"{text} " if text[-1:].isalpha() and following.isalpha() else text


def _unwrapped(text: str) -> str:
    """Takes off math delimiters, a box, bold and punctuation that stand around the whole."""
    for _ in range(LAYERS):
        before = text
        text = ENDS.sub("", text.strip().rstrip(" ,;"))
        for left, right in WRAPPERS:
            inner = text[len(left) : -len(right)]
            if inner and text == left + inner + right and not _holds(inner, left) and not _holds(inner, right):
                text = inner
        if styled := STYLED.fullmatch(text):
            text = styled[1]
        if (box := answers.last_box(text)) is not None and (box.start, box.end) == (0, len(text)):
            text = box.content
        text = unlabelled(text)
        if text == before:
            break
    return text


def _holds(text: str, mark: str) -> bool:
    r"""Whether a text has a mark in it; `\$` is no mark."""
    return DOLLAR.search(text) is not None if mark == "$" else mark in text


def unlabelled(text: str) -> str:
    """Takes off what says that an answer follows; what is opened before it and goes on behind it stays open."""
    label = LABEL.match(text)
    if label is None or label.end() == len(text):
        return text
    return ("" if label["close"] else label["open"] or "") + text[label.end() :]


def _delimited(text: str) -> str:
    r"""Takes out dollar signs in pairs, `$5$ cm` being `5\text{ cm}`; a single one is a currency's."""
    pieces = DOLLAR.split(text)
    if len(pieces) == 1:
        return text
    if len(pieces) % 2 == 0:
        return DOLLAR.sub(r"\\$", text)
    for place in range(0, len(pieces), 2):
        if re.search("[A-Za-z]", pieces[place]) and "\\" not in pieces[place]:
            pieces[place] = f"\\text{{{pieces[place]}}}"
    return "".join(pieces)


def text_of(value: object, column: str) -> str:
    """Returns a cell's text; a number is written out in decimals, 1e-07 as 0.0000001.

    Raises:
        DataError: the cell is neither a text nor a finite number.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool) or not math.isfinite(value):
        raise DataError(f"{column} must be a text or a finite number, not {value!r:.60}")
    digits = format(Decimal(repr(value)) if isinstance(value, float) else Decimal(value), "f")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return "0" if digits == "-0" else digits
