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
    "yen": "jpy",
    "cent": "¢",
    "percent": "pct percentage %",
    "gal": "gallon",
    "pt": "pint",
    "qt": "quart",
    "cup": "",
    "tbsp": "tablespoon",
    "tsp": "teaspoon",
    "acre": "",
    "ha": "hectare",
    "t": "ton tonne",
    "day": "",
    "wk": "week",
    "mo": "month",
    "unit": "",
    "point": "",
    "th": "st nd rd",
    "n": "newton",
    "j": "joule",
    "w": "watt",
    "v": "volt",
    "hz": "hertz",
    "kwh": "",
    "mpg": "",
    "rpm": "",
    "am": "a.m",
    "pm": "p.m",
    "person": "people",
    "child": "children",
    "man": "men",
    "woman": "women",
}
UNITS = {spelling: unit for unit, line in SPELLINGS.items() for spelling in (unit, *line.split())}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
# Words that change a value, so that an answer may not leave them out.
CHANGES = """
or and either neither not no if when for where except without
more less fewer than at least most about approximately around above below over under before after ago to
approx roughly nearly almost only short off out behind ahead ish
plus minus negative doubled halved tripled quadrupled factorial mod remainder base
times twice thrice double triple quadruple fold power exponent log reciprocal inverse as many much that
half halve third quarter fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth hundredth thousandth
millionth billionth
tens ones tenfold score gross k mil mln mn bn tn thou lakh crore basis mille
north south east west up down left right am pm noon midnight ad bc ce bce
"""
TELLING = frozenset(CHANGES.split()) | SCALES.keys()
PLURALS = frozenset(["fish", "sheep", "deer", "dice", "mice", "geese", "teeth", "cattle"])  # without an s
# Behind a unit, as in `7 years old`.
SIZES = frozenset(["each", "total", "altogether", "old", "long", "wide", "high", "tall", "deep", "away"])
RAISED = frozenset(["squared", "cubed"])  # behind a unit
SCALED = re.compile(r"\b[KMBT]\b")  # thousands to trillions; they are seldom units
# `Option A`, `Option (A): 5`, `(A) 5`, `A) 5` and `A. 5`; but A + 5 and (A)5 may be formulas.
CHOICE = re.compile(
    r"(?:(?i:option|choice) \(?(?P<named>[A-J])\)?[.:]?|\((?P<marked>[A-J])\):?|(?P<dotted>[A-J])[.)])"
    r"(?P<said>(?:(?<!\w) +[\w\\$].*)?)"
)
HEDGES = re.compile(
    r"(?<![A-Za-z\\])(?:[A-J]|(?i:or|and|nor|not|neither|either|but|except|unless|if|wrong|false|incorrect))(?![A-Za-z])"
)
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
    """Returns words as they are compared: in small letters, without the plural's s and an article before them."""
    said = re.sub(r"^(?:an?|the) (?=.)", "", spoken(text))
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in said.split())


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
        if name in RAISED and names:
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


def droppable(text: str, few: bool) -> bool:
    """Whether words behind a value only name its unit, so that one side may leave them out.

    Units that are known do, and so do nouns in the plural, as in `red apples` and `cups of water`; behind `few` things,
    at most one, also in the singular. `twice`, `short` and every other word may change the value.
    """
    text = spoken(text).replace("per cent", "percent")
    counted = re.split(r"\bper\b|/", text)[0].partition(" of ")[0]
    names = [re.sub(r"\^.*|[.,()]", "", name) for name in counted.split()]
    said = [*names, *re.split(r"[\s/.,()-]+", text)]
    if any(word in TELLING or _singular(word) in TELLING for word in said) or RAISED.intersection(names[:1]):
        return False
    while names and names[-1] in SIZES | POWERS.keys() | RAISED:
        names.pop()
    last = names[-1] if names else ""
    if NUMBERS.get(_singular(last)):
        return False  # sevens
    plural = last in PLURALS or re.fullmatch("[a-z-]{2,}[^siu]s", last) is not None
    return few or plural or _singular(last) in SPELLINGS or not names


def scaled(text: str) -> tuple[int, str]:
    """Returns the factor that words behind a number begin with, and the rest: 10**6 and `dollars`."""
    factor, words = 1, spoken(text).split()
    while words and words[0].rstrip("s") in SCALES:
        factor *= SCALES[words.pop(0).rstrip("s")]
    return factor, " ".join(words)


def choice(text: str) -> tuple[str, str]:
    """Returns the letter of a choice and what stands behind it; nothing where another one may be meant as well."""
    match = CHOICE.fullmatch(text)
    if match is None or HEDGES.search(match["said"]):
        return "", ""
    return (match["named"] or match["marked"] or match["dotted"]).lower(), match["said"]
