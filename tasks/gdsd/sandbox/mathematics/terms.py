r"""The grammar of expressions: tokens of plain LaTeX to an expression of SymPy.

Every token is read, or the text is refused. Decimals are exact fractions. Nothing is handed to SymPy as a text.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import sympy

WORDS = r"\\(?:text|mathrm|operatorname|rm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
ENVIRONMENT = r"\\(?:begin|end)\s*\{[a-z]+\*?\}"
TOKEN = re.compile(
    rf"{WORDS}|{ENVIRONMENT}|\\[A-Za-z]+|\\."
    r"|[0-9]*\.[0-9]*\\(?:overline|bar|dot)\s*(?:\{[0-9]+\}|[0-9])"
    r"|[0-9]+(?:\.[0-9]+)?[eE][-+]?[0-9]+(?![0-9A-Za-z.])|[0-9]+\.?[0-9]*|\.[0-9]+|[A-Za-z]|\s+|.",
    re.DOTALL,
)
TEXT = re.compile(WORDS)
REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\[a-z]+\s*\{?([0-9]+)\}?")
DEGREE = "degree"  # stands for `^\circ`
OPEN = frozenset(["(", "[", "{", r"\{", r"\langle", r"\lvert", r"\lfloor", r"\lceil"])
ENDS = frozenset(["+", "-", "^", "_", "!", "'", "&", r"\\", ",", DEGREE])  # what no factor starts with
CLOSE = frozenset([")", "]", "}", r"\}", r"\rangle", r"\rvert", r"\rfloor", r"\rceil"])
LONGEST = 6  # digits of an exponent in `1e-7`

ALPHABET = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega"
)
GREEK = frozenset(f"\\{name}" for small in ALPHABET.split() for name in (small, small.capitalize()))
TRIGONOMETRIC: dict[str, Callable[..., sympy.Expr]] = {
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
}
FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    **TRIGONOMETRIC,
    **{"ln": sympy.log, "exp": sympy.exp, "log": lambda value, base=10: sympy.log(value, base)},
    **{"lg": lambda value: sympy.log(value, 10)},
    **{"max": sympy.Max, "min": sympy.Min, "gcd": sympy.gcd, "lcm": sympy.lcm},
}
SEVERAL = ("max", "min", "gcd", "lcm")  # functions of several arguments
STYLES = frozenset([r"\mathcal", r"\vec", r"\hat"])
INFIX = {r"\choose": r"\binom", r"\over": r"\frac"}


class Unreadable(ValueError):
    """A text is no expression of this grammar."""


def tokens(text: str) -> list[str]:
    r"""Cuts a plain text into tokens; `^\circ` in any form is one, and `{1 \over 2}` is `\frac{1}{2}`."""
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|(?<=[0-9}])\^(?:o(?![A-Za-z])|\{o\})", "\0", text)
    found = ["{"]  # around the whole, to which a fraction may belong
    opened = [0]  # where the braces are that are still open
    for match in TOKEN.finditer(text):
        token = DEGREE if match[0] == "\0" else match[0]
        if token in INFIX:
            found.insert(opened[-1], INFIX[token])
            opened[-1] += 1
            found += ["}", "{"]
            continue
        if token == "{":
            opened.append(len(found))
        elif token == "}" and len(opened) > 1:
            opened.pop()
        found.append(token)
    return found[1:] if found[0] == "{" else [*found, "}"]


def number(token: str) -> sympy.Rational | None:
    """Returns the exact number that a token is, or None."""
    if match := REPEATING.fullmatch(token):
        whole, fixed, period = match.groups()
        shift = 10 ** len(fixed)
        return sympy.Rational(
            Fraction(int((whole + fixed) or "0"), shift) + Fraction(int(period), shift * (10 ** len(period) - 1))
        )
    mantissa, _, exponent = token.lower().partition("e")
    if not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", mantissa) or len(exponent.lstrip("+-0")) > LONGEST:
        return None
    value = sympy.Rational(Fraction(f"0{mantissa}" if mantissa.startswith(".") else mantissa.rstrip(".")))
    return value * sympy.Integer(10) ** int(exponent) if exponent else value


def expression(parts: Sequence[str]) -> sympy.Expr:
    """Reads tokens as one expression.

    Raises:
        Unreadable: they are none.
    """
    reader = Descent([part for part in parts if not part.isspace()])
    value = reader.sum()
    if reader.peek():
        raise Unreadable(f"{reader.peek()!r} is left over")
    return value


class Descent:
    """Recursive descent over tokens: sums of products of powers."""

    def __init__(self, parts: list[str]) -> None:
        self.parts = parts
        self.place = 0
        self.bars = 0  # open `|`

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.parts[place] if place < len(self.parts) else ""

    def take(self, wanted: str = "") -> str:
        part = self.peek()
        if not part or (wanted and part != wanted):
            raise Unreadable(f"{wanted or 'something'} is missing")
        self.place += 1
        return part

    def sum(self) -> sympy.Expr:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> sympy.Expr:
        if self.peek() in ("+", "-"):
            return self.product() if self.take() == "+" else -self.product()
        value = self.power()
        while True:
            if self.peek() in ("*", r"\cdot", r"\times"):
                self.take()
                value = value * self.signed()
            elif self.peek() in ("/", r"\div"):
                self.take()
                value = _ratio(value, self.signed())
            elif self.starts():
                if number(self.peek(self.wrapped())) is not None and self.parts[self.place - 1] != "!":  # 3!2! is 12
                    raise Unreadable("two numbers stand side by side")
                value = value * self.power()
            else:
                return value

    def signed(self) -> sympy.Expr:
        if self.peek() in ("+", "-"):
            return self.signed() if self.take() == "+" else -self.signed()
        return self.power()

    def starts(self) -> bool:
        """Whether a factor follows, by which the one before is multiplied."""
        part = self.peek()
        if part == "|":
            return self.bars == 0
        return bool(part) and part not in CLOSE and part not in ENDS and not part.startswith(r"\end")

    def wrapped(self) -> int:
        r"""How many tokens stand before what a factor shows: `4{10}` and `4\boxed{10}` look like 410."""
        ahead = 0
        while self.peek(ahead) in ("{", r"\boxed"):
            ahead += 1
        return ahead

    def power(self) -> sympy.Expr:
        value = self.factor()
        while self.peek() in ("^", "!", DEGREE):
            match self.take():
                case "^":
                    value = value ** self.script()
                case "!" if self.peek() == "!":
                    self.take()
                    value = sympy.factorial2(value)
                case "!":
                    value = sympy.factorial(value)
                case _:
                    value = value * sympy.pi / 180
        return value

    def script(self) -> sympy.Expr:
        """What stands behind `^` or `_`; a number without braces counts as a whole, 2^10 being 2^{10}."""
        return self.signed() if self.peek() == "-" else self.factor()

    def factor(self) -> sympy.Expr:
        part = self.take()
        if (value := number(part)) is not None:
            return self.mixed(value)
        if part in ("(", "[", "{", r"\lvert", r"\lfloor", r"\lceil", "|"):
            return self.group(part)
        if part.startswith(r"\begin"):
            return self.matrix(part)
        if re.fullmatch(r"[A-Za-z]", part) or part in GREEK:
            return self.symbol(part)
        if (text := TEXT.fullmatch(part)) is not None:
            name = text[1].strip()
            return self.function(name) if name in FUNCTIONS else self.symbol(_letter(name))
        return self.command(part)

    def mixed(self, value: sympy.Rational) -> sympy.Expr:
        r"""A number, with the fraction that follows: `2\frac{1}{2}`; 2 of it is not multiplied by 1/2."""
        if not value.is_Integer:
            return value
        if self.peek() == r"\frac":
            start = self.place
            self.take()
            over, under = self.digits(), self.digits()
            if over is not None and under:
                return value + sympy.Rational(over, under)
            self.place = start
        elif self.peek(1) == "/" and self.peek().isdigit() and self.peek(2).isdigit() and int(self.peek(2)):
            over, under = int(self.take()), int((self.take("/"), self.take())[1])
            return value + sympy.Rational(over, under)
        return value

    def digits(self) -> int | None:
        r"""The argument of `\frac` if it is a whole number, or None."""
        if self.peek() == "{" and self.peek(1).isdigit() and self.peek(2) == "}":
            self.place += 3
            return int(self.parts[self.place - 2])
        if self.peek().isdigit():
            return int(self.argument())
        return None

    def group(self, part: str) -> sympy.Expr:
        if part == "|":
            self.bars += 1
            value = self.sum()
            self.take("|")
            self.bars -= 1
            return sympy.Abs(value)
        bars, self.bars = self.bars, 0
        value = self.sum()
        self.bars = bars
        match part:
            case r"\lvert":
                self.take(r"\rvert")
                return sympy.Abs(value)
            case r"\lfloor":
                self.take(r"\rfloor")
                return sympy.floor(value)
            case r"\lceil":
                self.take(r"\rceil")
                return sympy.ceiling(value)
        self.take({"(": ")", "[": "]", "{": "}"}[part])
        return value

    def argument(self) -> sympy.Expr:
        r"""An argument of a command: a group in braces, or one token, of a number its first digit: \frac12 is 1/2."""
        part = self.peek()
        if part == "{":
            return self.factor()
        if part.isdigit() and len(part) > 1:
            self.parts[self.place] = part[1:]
            return sympy.Integer(int(part[0]))
        return self.factor()

    def symbol(self, name: str) -> sympy.Expr:
        subscript = ""
        if self.peek() == "_":
            self.take()
            start = self.place
            self.script()
            subscript = "_" + "".join(part for part in self.parts[start : self.place] if part not in "{}")
        primes = ""
        while self.peek() == "'":
            primes += self.take()
        if name in ("i", "e") and not subscript and not primes:
            return sympy.I if name == "i" else sympy.E
        return sympy.Symbol(name.lstrip("\\") + subscript + primes, real=True)

    def command(self, part: str) -> sympy.Expr:
        if part in (r"\pi", r"\infty"):
            return sympy.pi if part == r"\pi" else sympy.oo
        if part == r"\frac":
            over = self.argument()
            return _ratio(over, self.argument())
        if part == r"\binom":
            over = self.argument()
            return sympy.binomial(over, self.argument())
        if part == r"\sqrt":
            root = sympy.Integer(2)
            if self.peek() == "[":
                root = self.factor()
            return _root(self.factor(), root)
        if part in STYLES:
            inner = self.argument()
            if not inner.is_Symbol:
                raise Unreadable(f"{part} of an expression")
            return inner
        if part == r"\boxed":
            return self.argument()
        if part.lstrip("\\") in FUNCTIONS:
            return self.function(part.lstrip("\\"))
        raise Unreadable(f"{part!r} is not known")

    def function(self, name: str) -> sympy.Expr:
        base: list[sympy.Expr] = []
        if name == "log" and self.peek() == "_":
            self.take()
            base = [self.argument()]
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.script()
        if name in SEVERAL:
            self.take("(")
            values = [self.sum()]
            while self.peek() == ",":
                self.take()
                values.append(self.sum())
            self.take(")")
            return FUNCTIONS[name](*values)
        if exponent == -1 and f"arc{name}" in FUNCTIONS:
            return FUNCTIONS[f"arc{name}"](self.operand())
        value = FUNCTIONS[name](self.operand(), *base)
        return value if exponent is None else value**exponent

    def operand(self) -> sympy.Expr:
        r"""What a function is taken of: what stands in brackets, or else a product, as in \sin 2x\cos x."""
        if self.peek() in ("(", "[", r"\lvert", "|"):
            return self.factor()  # \sin(x)^2 is the square of the sine
        value = self.signed()
        while self.starts() and self.peek().lstrip("\\") not in FUNCTIONS and self.peek() not in ("(", "["):
            if self.peek() in ("*", "/", r"\cdot", r"\times", r"\div", ","):
                break
            value = value * self.power()
        if self.peek() == "/" and self.peek(1).isdigit():  # \sin\pi/3
            self.take()
            value = _ratio(value, self.power())
        return value

    def matrix(self, begin: str) -> sympy.Expr:
        name = begin[begin.index("{") + 1 : -1]
        if name not in ("matrix", "pmatrix", "bmatrix", "vmatrix", "Bmatrix", "array", "smallmatrix"):
            raise Unreadable(f"{begin} is not known")
        if name == "array" and self.peek() == "{":
            while self.take() != "}":
                pass
        rows: list[list[sympy.Expr]] = [[]]
        while not self.peek().startswith(r"\end"):
            rows[-1].append(self.sum())
            if self.peek() == "&":
                self.take()
            elif self.peek() == r"\\":
                self.take()
                if not self.peek().startswith(r"\end"):
                    rows.append([])
        self.take()
        if len({len(row) for row in rows}) != 1:
            raise Unreadable("a matrix with rows of several lengths")
        value = sympy.ImmutableMatrix(rows)
        return value.det() if name == "vmatrix" else value


def _ratio(over: sympy.Expr, under: sympy.Expr) -> sympy.Expr:
    if under == 0:
        raise Unreadable("a division by zero")
    return over / under


def _root(value: sympy.Expr, degree: sympy.Expr) -> sympy.Expr:
    """A root; an odd one of a negative number is the real one."""
    if degree.is_Integer and degree % 2 == 1 and value.is_negative:
        return -((-value) ** (1 / degree))
    return value ** (1 / degree)


def _letter(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z]", name):
        raise Unreadable(f"{name!r} is a word")
    return name
