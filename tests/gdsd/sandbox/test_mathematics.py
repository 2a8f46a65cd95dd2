"""Mathematics: which ways of writing say the same, kind by kind; units are in test_units.py."""

import pytest
import sympy

from tasks.gdsd.domains.notation import plain
from tasks.gdsd.sandbox.mathematics.equality import equal
from tasks.gdsd.sandbox.mathematics.terms import Unreadable, expression, tokens
from tests.gdsd.sandbox.kinds import misjudged

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
        70 == \frac{8!}{4!4!}
        12 == 3! 2!
        44 !! 4!4
        \frac{\sqrt3}{2} == {\sqrt{3} \over 2}
        1\frac45 == 1{4\over 5}
        \frac12 == 1 \over 2
        10 == 5 \choose 2
        \frac12 !! 1 \over 2, 3
        56 !! \mathbf{7}\mathbf{8}
        5 !! ?
        5 !! 5x
        40 !! 4{10}
        \text{two} == two solutions
        2\sqrt3 == 2\sqrt{3} \approx 3.46
        \frac13 == x = \frac{1}{3} ≈ 0.333
        \frac13 !! \frac{1}{3} \approx 0.4
        2\sqrt3 !! \approx 3.46
        3.46 !! 2\sqrt3 \approx 3.46
        x !! x \approx 3
        18 !! ~18
        18 !! x=~18
        \frac25 == \frac25 \text{ or } 0.4
        0.4 == 40\% \text{ or } \frac25
        \frac25 !! \frac25 \text{ or } 0.5
        \frac25 !! \frac25 \text{ and } 0.4
        5 !! x=5 or y=5
        5 !! 5 cm or 5 m
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
        \text{(C)} == (C) 12
        \text{(C)} == \textbf{(C)}\ \frac12
        \text{(C)} == C. 12
        \text{(C)} == \text{Option C}
        \textbf{(C)}\ 12 == C
        \text{(C)} !! (D) 12
        \text{(C)} !! (C) or (D)
        \text{(C)} !! (C) 12, (D) 13
        \text{(C)} !! (C) is wrong
        \text{(C)} !! (C) + 1
        \text{(C)} !! C - 5
        (C) 12 !! (C) 13
        \text{ellipse} == an ellipse
        \text{ellipse} !! not an ellipse
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
        \{1\pm\sqrt5,-2\} == -2, 1+\sqrt5, 1-\sqrt5
        \{1\pm\sqrt5,-2\} !! \{1+\sqrt5,-2\}
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
        \infty == infinity
        \infty == \text{infinity}
        \infty !! -infinity
        \mathbb{R}^+ == \mathbb{R}^{+}
        (2,\infty) !! \mathbb{R}
        x>3 == 2x>6
        x>3 !! x<3
        (-3,3) == |x|<3
        y>2x+1 == 2x+1<y
        (-\infty,1)\cup(3,\infty) == (3,∞)\cup(-∞,1)
        (-\infty,1)\cup(3,\infty) == x<1 or x>3
        (-\infty,1)\cup(3,\infty) == x < 1 \cup x > 3
        (-\infty,1)\cup(3,\infty) !! x < 1 \cup x \ge 3
        (-\infty,1)\cup(3,\infty) !! (-\infty,1]\cup(3,\infty)
        (-\infty,1)\cup(3,\infty) !! (-\infty,1)\cup(3,\infty]
        x<1\text{ or }x>3 !! x<1\text{ and }x>3
        (-\infty,2)\cup(2,\infty) == x\ne2
        (-\infty,2)\cup(2,\infty) == \mathbb{R}\setminus\{2\}
        [1,3] == [1,2]\cup[2,3]
        (1,2)\cup(3,4) == (1,2) or (3,4)
        (1,2)\cup(3,4) == (1,2) U (3,4)
        (1,2)\cup(3,4) !! (1,2) and (3,4)
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
        5 == = 5
        5 == \text{Answer: }5
        5 == **Final answer:** 5
        5 == The answer is $5$.
        5 !! The answer is not 5
        5 !! Answer: about 5
        5 !! <= 5
        5\text{ cm} == $5$ cm
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_the_same_is_equal_and_nothing_else(kind: str) -> None:
    """If it fails, right answers are refused for how they are written, or wrong ones teach the policy a wrong thing."""
    assert misjudged(KINDS[kind]) == []


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
