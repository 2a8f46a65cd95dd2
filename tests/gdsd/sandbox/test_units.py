"""Mathematics: units, and words behind a value that are none."""

import pytest

from tests.gdsd.sandbox.kinds import misjudged

# A reference, whether an answer says the same, and the answer.
KINDS = {
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
        5\text{ m} == 5\, m
        5 == 5 \, cm
        12\text{ m}^2 == 12 m^2
        12\text{ m}^2 !! 12 m^3
        9.8\text{ m/s}^2 == 9.8 m/s^2
        \frac{\sqrt3}{4} s^2 !! \frac{\sqrt3}{4}
        5 !! 2 + 3 s
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
        90^\circ == 90^o
        10\text{ in} == 10''
        10 == 10″
        10\text{ in} !! 10'
        5\text{ ft }10\text{ in} == 5'10"
        5\text{ ft }10\text{ in} == 5' 10″
        5\text{ ft }10\text{ in} !! 5'9"
        30^\circ !! 30^\circ 15'
        x'' !! x'
        \$18.90 == \text{\$}18.90
        $\$18.90$ == \text{\$18.90}
        ¥5 == 5 yen
        ¥5 !! £5
    """,
    "words behind a value": r"""
        7 == 7 ways
        7 == 7\text{ square units}
        7 == 7\text{ positive integers}
        7 == 7\text{ cups of water}
        7 == 7\text{ students per class}
        7 == 7\text{ years old}
        7 == 7\text{ cm squared}
        7 == 7\text{ total}
        7 == 7 people
        7 == 7\text{ N}
        1 == 1\text{ apple}
        \frac34 == \frac34\text{ pie}
        5000 == 5 thousand dollars
        84 == 7 dozen
        7 == 7 percent
        7 !! 7 twice
        7 !! 7\text{ times}
        7 !! 7 per thousand
        7 !! 7 million
        7 !! 7 dozen
        7 !! 7 or so
        7 !! 7 apples short
        7 !! 7\text{ apples more}
        7 !! 7\text{ apples too many}
        7 !! 7\text{ squared}
        7 !! 7\text{-fold}
        7 !! 7\text{ fifteenths}
        7 !! 7\text{ (in millions)}
        7 !! 7\text{ M dollars}
        7 !! 7\text{ K}
        7 !! 7\text{ sevens}
        7 !! 7\text{ square root}
        7 !! 7\text{ percent less}
        7 !! 7 years ago
        7 !! 7 minutes late
        7\text{ twice} == 7 twice
    """,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_may_be_left_out_and_other_words_may_not(kind: str) -> None:
    """If it fails, `7 twice` is 7, or a right answer is refused because it has a unit."""
    assert misjudged(KINDS[kind]) == []
