"""Units, and numbers told in words."""

import re

# A unit's usual spellings. Units are compared by name and never converted: 100 cm is not 1 m.
SPELLINGS = {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "m": "meter metre",
    "km": "kilometer kilometre",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "mg": "milligram",
    "g": "gram gm",
    "kg": "kilogram kilo",
    "lb": "pound lbs",
    "oz": "ounce",
    "ml": "milliliter millilitre",
    "l": "liter litre",
    "s": "second sec",
    "min": "minute",
    "h": "hour hr",
    "yr": "year",
    "mi/h": "mph",
    "km/h": "kph kmph kmh",
    "rad": "radian",
    "degree": "deg",
    "c": "celsius centigrade",
    "f": "fahrenheit",
    "dollar": "usd buck",
    "euro": "eur €",
    "£": "gbp",
    "cent": "¢",
    "percent": "pct percentage %",
    "am": "a.m",
    "pm": "p.m",
    "person": "people",
    "child": "children",
    "man": "men",
    "woman": "women",
}
UNITS = {spelling: unit for unit, line in SPELLINGS.items() for spelling in (unit, *line.split())}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
# Words that change a value, so that an answer may not leave them out.
CHANGES = """
or and either neither not no if when for where except
more less fewer than at least most about approximately around above below over under before after ago to
approx roughly nearly almost
plus minus negative squared cubed doubled halved tripled factorial mod remainder base
half halve third quarter fourth fifth sixth seventh eighth ninth tenth twelfth sixteenth twentieth
hundredth thousandth millionth
north south east west up down left right am pm noon midnight ad bc ce bce
"""
TELLING = frozenset(CHANGES.split())
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
COUNTING = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty
"""
NUMBERS = {word: number for number, word in enumerate(COUNTING.split())}
SHORT = frozenset(["yes", "no", "odd", "all", "one", "two", "six", "ten", "am", "pm"])  # and no products of letters


def spoken(text: str) -> str:
    """Returns words in small letters, without punctuation around them and with single spaces."""
    return " ".join(word for word in re.sub(r"[\s~]+", " ", text.casefold()).strip(' .,;:!?()"').split(" ") if word)


def phrase(text: str) -> str:
    """Returns words as they are compared: in small letters and without the plural's s."""
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in spoken(text).split())


def unit(text: str) -> str:
    """Returns a unit's one name: `square feet`, `sq. ft` and `ft^2` are `ft^2`, and `apples` is `apple`."""
    names: list[str] = []
    power = 1
    text = re.sub(r"\s*(?:\bper\b|/)\s*", " / ", spoken(text).replace("per cent", "percent"))
    for word in re.sub(r"\s*\^\s*\{?([0-9])\}?", r"^\1", text).split():
        name, _, exponent = word.strip(".,()").partition("^")
        if name in POWERS:
            power = POWERS[name]
            continue
        if name in ("squared", "cubed") and names:
            names[-1] += "^2" if name == "squared" else "^3"
            continue
        name = _singular(name)
        names.append(f"{name}^{exponent or power}" if exponent or power > 1 else name)
        power = 1
    return re.sub(r" / ", "/", " ".join(names))


def _singular(name: str) -> str:
    if name in UNITS:
        return UNITS[name]
    if len(name) > 3 and name.endswith("ies"):
        return f"{name[:-3]}y"
    short = name[:-1] if len(name) > 2 and name.endswith("s") and not name.endswith("ss") else name
    return UNITS.get(short, short)


def telling(name: str) -> bool:
    """Whether a unit's name has a word that changes a value."""
    return any(word in TELLING for word in re.split(r"[ /]", name))


def scaled(text: str) -> tuple[int, str]:
    """Returns the factor that words behind a number begin with, and the rest: 10**6 and `dollars`."""
    factor, words = 1, spoken(text).split()
    while words and words[0].rstrip("s") in SCALES:
        factor *= SCALES[words.pop(0).rstrip("s")]
    return factor, " ".join(words)
