"""Mathematics: which ways of writing say the same, kind by kind, in the plain form that the domain makes of texts."""

import pytest
import sympy

from tasks.gdsd.domains.notation import plain
from tasks.gdsd.sandbox.mathematics.equality import equal
from tasks.gdsd.sandbox.mathematics.terms import Unreadable, expression, tokens

# A reference, whether an answer says the same, and the answer.
KINDS = {
    "numbers": r"""
        \frac{1}{2} == 0.5
        \frac{1}{2} == 1/2
        \frac{1}{2} == \dfrac12
        \frac{1}{2} == ½
        \frac{5}{2} == 2\frac12
        \frac{5}{2} == 2 1/2
        \frac{9}{2} !! 4\cdot\frac{1}{2}
        12 == 3(4)
        7 !! 3(4)
        5 !! 2 3
        5 == 2+3
        -3 == - 3
        1234 == 1,234
        1234 == 1{,}234
        1234 == 1\,234
        1234 == 1 234
        1234 == 1~234
        1234567 == 1,\! 234,\! 567
        1234567 == 1{,}\!234{,}\!567
        1234 !! 1, 234
        1,234 == 1234
        12345 !! (12,345)
        0.5 == .5
        0.25 !! 0.250001
        \frac16 == 0.1\overline{6}
        \frac16 !! 0.16
        \frac16 !! 0.1666\ldots
        \frac13 !! 0.333
        0.333 !! \frac13
        0.3333333333333333 == \frac13
        \pi !! 3.14159
        \pi == 3.14159265358979
        1000000 == 10^6
        1000000 == 1e6
        1e-07 == 10^{-7}
        1e-07 == 0.0000001
        1e-07 !! e-7
        e-7 == e - 7
        1.6\times 10^{-19} == 1.6⋅10⁻¹⁹
        1.6\times 10^{-19} !! 9.1\times 10^{-31}
        \frac{1}{2^{99}} == 2^{-99}
        \frac{1}{2^{99}} !! \frac{1}{2^{98}}
        0 !! 0.0000000001
        10^{100} !! 10^{100}+1
        0.1000000000000000001 !! 0.1000000000000000002
        2\sqrt{3} == √12
        \sqrt{3+2\sqrt{2}} == 1+\sqrt2
        \sqrt5 == 5^{0.5}
        \cos 15^\circ == \frac{\sqrt{6}+\sqrt{2}}{4}
        \log_2 8 == 3
        \ln 8 !! \log 8
        \binom{5}{2} == {5 \choose 2}
        3+4i == (2+i)^2
        1+2i !! 1-2i
        \text{two} == 2
        15 == 5!!
        720 == (3!)!
        \frac{\sqrt3}{2} == {\sqrt{3} \over 2}
        1\frac45 == 1{4\over 5}
        \frac12 == 1 \over 2
        10 == 5 \choose 2
        \frac12 !! 1 \over 2, 3
        56 !! \mathbf{7}\mathbf{8}
        5 !! ?
        5 !! 5x
    """,
    "percent": r"""
        12.5\% == 12.5
        12.5 == 12.5\%
        10\% == \frac{1}{10}
        10\% == 10 percent
        10\% == 10 per cent
        10 !! 0.1
        10\% !! 0.01
        5\frac12\% == 5.5\%
    """,
    "units": r"""
        5 == 5\text{ cm}
        5\text{ cm} == 5
        5\text{ cm} == 5cm
        5\text{ cm} == 5\,\mathrm{centimeters}
        5\text{ cm} !! 5\text{ m}
        5\text{ cm} !! 5\text{ cm}^2
        5\text{ m} == 5m
        5 !! 5m
        500\text{ cm} !! 5\text{ m}
        36\text{ cm}^2 == 36\text{ sq. cm}
        36\pi\text{ cubic inches} == 36π in³
        15\text{ m/s} == 15\ \frac{\text{m}}{\text{s}}
        15\text{ m/s} == 15\text{ m}/\text{s}
        15\text{ m/s} !! 15\text{ s}/\text{m}
        15\text{ mph} == 15\text{ miles per hour}
        7\text{ apples} == 7
        7\text{ apples} !! 7\text{ pears}
        7\text{ apples and }3\text{ pears} !! 7
        7\text{ apples and }3\text{ pears} == 3 pears and 7 apples
        2\text{ hours }30\text{ minutes} == 2 hr 30 min
        2\text{ hours }30\text{ minutes} !! 2\text{ hours }45\text{ minutes}
        12\text{ ft }6\text{ in} !! 12
        12\text{ ft }6\text{ in} !! 12, 6
        5 !! 5\text{ or more}
        5\text{ or more} !! 5
        5 !! 5\text{ (approx.)}
        \text{at least }5 !! 5
        10\text{ m east} !! 10\text{ m}
        5,000,000 == 5 million dollars
        5 !! 5 million
        7 !! 7\text{ halves}
        7 !! 7\text{ tenths}
        7\text{ hundredths} !! 7
        7 !! 7\text{ factorial}
        7\text{ tenths} == 7\text{ tenths}
        \$18.50 == 18.5
        18 == 18$
        \$18 == 18 dollars
        \$18 !! 18\text{ cents}
        18\text{ cents} == 18¢
        18\text{ cents} == 18\text{¢}
        \$18 !! 18¢
        \$5 !! €5
        90^\circ == 90
        90 == 90°
        90^\circ == 90 degrees
        90^\circ !! 90\text{ radians}
        90^\circ !! \frac{\pi}{2}
        20^\circ\text{C} == 20°C
        20^\circ\text{C} !! 20°F
        20^\circ\text{C} == 20\text{ degrees Celsius}
        20^\circ\text{C} !! 20\text{ degrees Fahrenheit}
        20^\circ\text{F} == 20 degrees fahrenheit
        4^{\text{th}} == 4
    """,
    "times, ratios and bases": r"""
        4:30\text{ PM} == 4:30 p.m.
        4:30\text{ PM} == 16:30
        4:30\text{ PM} !! 4:30\text{ AM}
        4:30\text{ PM} !! 4:30
        4:30 == 04:30 PM
        3:00\text{ PM} == 3 p.m.
        3:00\text{ PM} !! 3\text{ AM}
        3\text{ PM} !! 3
        0:15 == 12:15\text{ AM}
        12:15\text{ AM} == 00:15
        0:15 !! 12:15\text{ PM}
        3 !! 3:00
        4:30 !! 2:15
        2:3 == 4:6
        2:3 == \frac23
        2:3 == 2\text{ to }3
        2:3 !! 3:2
        3:10 == \frac{3}{10}
        1011_2 == 1011_{\text{two}}
        1011_2 == 1011
        1011_2 == 1011 (base 2)
        1011_2 == 1011_{\text{base }2}
        1011_2 == 1011_{\text{base two}}
        1011_2 !! 1011_{\text{base }3}
        1011_2 !! 1011_3
        1011_2 !! 11
        1011_2 !! 11_{10}
        A3F_{16} == a3f
    """,
    "words and letters": r"""
        \text{(C)} == C
        \text{(C)} == \textbf{c}
        \text{(C)} !! D
        C !! CD
        A !! A'
        \text{east} == \mathbf{east}
        AB !! ab
        x !! y
        x_1 == x₁
        x_1 !! x_2
        \text{Evelyn} == evelyn
        \text{Evelyn} !! Evan
        east !! seat
        \text{Yes} == yes
        \text{Yes} !! no
        \text{Ann and Bob} == \text{Bob, Ann}
        \text{Ann and Bob} !! Ann
        \text{January 5} == January 5
        \text{January 5} !! \text{January 6}
        \angle ABC !! \angle ACB
        \theta == θ
    """,
    "expressions": r"""
        x^2+2x+1 == (x+1)^2
        x^2+2x+1 == 1 + 2x + x²
        x^2+2x+1 !! (x+2)^2
        \frac{x^2-1}{x-1} == x+1
        \sin 2x == 2\sin x\cos x
        \sqrt{x^2} == |x|
        \sqrt{x^2} !! x
        a-b !! b-a
        2^n !! 2n
        2k\pi == 2πk
        sqrt(3)/2 == \frac{\sqrt3}{2}
        x**2 == x^2
    """,
    "equations": r"""
        x=5 == 5
        5 == x = 5
        5 == m+n=5
        x=5 !! y=5
        60 == \angle ABC = 60^\circ
        5 == x=2+3=5
        42 !! 41=42
        y=2x+3 == 2x+3
        y=2x+3 == 2x-y+3=0
        y=2x+3 !! y=2x-3
        x^2+y^2=4 !! 4
        5x-7y+4=0 !! 5x-7y+=0
        5x-7y+4=0 !! 5x\ 7y+?=0
        \angle ABC=60^\circ == m\angle ABC=60
        (3,4) == (x,y)=(3,4)
        (1,2) == x=1, y=2
        x=1, y=2 !! x=2, y=1
        (1,2) == y=2, x=1
        (1,2) !! y=1, x=2
        1, 2 !! x=2, y=1
        1, 2 == x_1=2, x_2=1
        1, 2 == x=1 or x=2
    """,
    "lists, sets, tuples and matrices": r"""
        1,2 == 2\text{ and }1
        1,2 == \{2,1\}
        1,2 !! 1
        1,2 !! 1,2,3
        1,2 !! 1,1,2
        5 !! 5 or 6
        100,200,300 == 100, 200, 300
        100,200,300 == 300,\ 200,\ 100
        \{1,2\} == \{1,2,2\}
        \{1,2\} !! (1,2)
        (1,2) !! (2,1)
        (1,2) == 1,2
        (1,2) !! (1,2,3)
        (1,2,3) !! (1,2,3]
        (1,2),(3,4) == (3,4),(1,2)
        (1,2,3) == \langle 1,2,3\rangle
        \left(3,\frac{\pi}{2}\right) == (3, 0.5π)
        5, -5 == \pm 5
        5 !! \pm 5
        3\pm\sqrt2 == 3+√2, 3-√2
        \begin{pmatrix}1\\2\end{pmatrix} == \left[\begin{matrix}1\\[2pt]2\end{matrix}\right]
        \begin{pmatrix}1\\2\end{pmatrix} == (1,2)
        \begin{pmatrix}1\\2\end{pmatrix} !! \begin{pmatrix}1&2\end{pmatrix}
        \begin{pmatrix}1&2\\3&4\end{pmatrix} !! \begin{pmatrix}1&3\\2&4\end{pmatrix}
        \begin{pmatrix}1&2\\3&4\end{pmatrix} == \begin{bmatrix}1&2\cr3&4\end{bmatrix}
        \emptyset == \{\}
    """,
    "intervals and inequalities": r"""
        (1,5) == 1<x<5
        (1,5) == 5 > x > 1
        (1,5) == x\in(1,5)
        (1,5) == \{x \mid 1 < x < 5\}
        (1,5) !! [1,5]
        (1,5) !! 1\le x<5
        (1,5) !! (5,1)
        1<x<5 == (1,5)
        [1,5] == 1 ≤ x ≤ 5
        [1,5] == 1 <= x <= 5
        (2,\infty) == (2,∞)
        (2,\infty) == x>2
        (2,\infty) !! \mathbb{R}
        x>3 == 2x>6
        x>3 !! x<3
        (-3,3) == |x|<3
        y>2x+1 == 2x+1<y
        (-\infty,1)\cup(3,\infty) == (3,∞)\cup(-∞,1)
        (-\infty,1)\cup(3,\infty) == x<1 or x>3
        (-\infty,1)\cup(3,\infty) !! (-\infty,1]\cup(3,\infty)
        (-\infty,1)\cup(3,\infty) !! (-\infty,1)\cup(3,\infty]
        x<1\text{ or }x>3 !! x<1\text{ and }x>3
        (-\infty,2)\cup(2,\infty) == x\ne2
        (-\infty,2)\cup(2,\infty) == \mathbb{R}\setminus\{2\}
        [1,3] == [1,2]\cup[2,3]
        A\cup B == B\cup A
        \mathbb{R} == all real numbers
    """,
    "what stands around": r"""
        5 == $5$
        5 == \(5\)
        5 == **5**
        5 == *5*
        5 == \color{red}{5}
        (2,5) == \boldsymbol{(2,5)}
        5 == 5\
        5 == \boxed{\boxed{5}}
        5 == 5.
        5. == 5
        5 == \text{5}
        5 == \displaystyle 5 \,
        5 !! 3, \boxed{5}
        5\text{ cm} == $5$ cm
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_the_same_is_equal_and_nothing_else(kind: str) -> None:
    """If it fails, right answers are refused for how they are written, or wrong ones teach the policy a wrong thing."""
    failed = []
    for line in KINDS[kind].strip().split("\n"):
        right = " == " in line
        reference, answer = line.split(" == " if right else " !! ")
        if equal(plain(reference), plain(answer)) is not right:
            failed.append(line.strip())
    assert failed == []


def test_a_reference_that_says_nothing_judges_nothing() -> None:
    """If it fails, answers to a broken row are wrong, and the policy learns to avoid them."""
    for nothing in ("", " ", ".", "$$", r"\text{.}"):
        assert equal(plain(nothing), "5") is None
    assert equal("5", "") is False


def test_an_expression_is_read_whole_or_not_at_all() -> None:
    """If it fails, a sign that the grammar does not know is dropped, and another answer is judged than was given."""
    x = sympy.Symbol("x", real=True)
    assert expression(tokens(r"\frac12x^10")) == x**10 / 2
    assert expression(tokens("0.1")) == sympy.Rational(1, 10)
    for text in (r"5\cdots", "5_2", "(5", "5)", r"\foo{5}", "5 5", "x +", r"\frac{1}{0}", "", r"5 \pmod 3", "5,6"):
        with pytest.raises(Unreadable):
            expression(tokens(text))
