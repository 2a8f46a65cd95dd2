"""Countdown: the problems, the exact parser, the search, and a verifier that nothing an answer contains can upset."""

import itertools
import random
from fractions import Fraction
from itertools import islice

import pytest

from tasks.gdsd.domains.alphabet import ALPHABET
from tasks.gdsd.domains.base import Problem
from tasks.gdsd.domains.countdown import Countdown, CountdownConfig, canonical, read_problem, solve
from tasks.gdsd.domains.expression import parse
from tasks.gdsd.errors import DataError

PROBLEM, REFERENCE = "3,5,7:22", "3*5+7"
BARE, TAGGED = Countdown(), Countdown(CountdownConfig(format="tagged"))


def problems(count: int, seed: int = 0, config: CountdownConfig = CountdownConfig()) -> list[Problem]:
    return list(islice(Countdown(config).problems(seed), count))


def judged(answer: str, domain: Countdown = BARE, problem: str = PROBLEM) -> tuple[float | None, float | None]:
    verdict = domain.verify(problem, REFERENCE, answer)
    assert verdict.solved is (verdict.parts["correctness"] == 1.0)
    return verdict.parts["correctness"], verdict.parts["format"]


def test_every_problem_is_solved_by_its_reference() -> None:
    """If it fails, a right answer can score zero, or a problem has none."""
    made = problems(500)
    assert all(BARE.fault(*problem) is None for problem in made)
    assert all(judged(reference, problem=problem) == (1.0, 1.0) for problem, reference in made)


def test_problems_keep_to_the_configuration() -> None:
    """If it fails, a field of the configuration changes nothing."""
    config = CountdownConfig(min_numbers=2, max_numbers=5, min_number=3, max_number=12, min_target=20, max_target=40)
    read = [read_problem(problem) for problem, _ in problems(500, config=config)]
    assert {len(numbers) for numbers, _ in read} == {2, 3, 4, 5}
    used = {number for numbers, _ in read for number in numbers}
    assert min(used) == 3 and max(used) == 12
    targets = {target for _, target in read}
    assert min(targets) == 20 and max(targets) == 40


def test_problems_are_distinct_up_to_order_and_follow_from_the_seed() -> None:
    """If it fails, a test problem can be among the training problems, or a rerun has other problems."""
    config = CountdownConfig(max_numbers=3, max_number=12)
    made = problems(1000, config=config)
    assert len({canonical(problem) for problem, _ in made}) == 1000
    assert made == problems(1000, config=config)
    assert made != problems(1000, seed=1, config=config)
    assert BARE.shingles("7,3,5:22") == BARE.shingles(PROBLEM) == {"3,5,7:22"}
    assert BARE.shingles("3,5,7:21") != BARE.shingles(PROBLEM)


def test_a_stream_ends_with_an_error_that_says_what_to_change() -> None:
    """If it fails, a run that asks for too many problems never starts and never says why.

    Two numbers from 1 to 3 make the targets 4 (1+3, 2+2; 2*2 is the same problem), 5 (2+3), 6 (2*3, 3+3) and 9 (3*3).
    """
    config = CountdownConfig(min_numbers=2, max_numbers=2, max_number=3, min_target=4, max_target=9)
    stream = Countdown(config).problems(0)
    assert {canonical(next(stream).problem) for _ in range(6)} == {"1,3:4", "2,2:4", "2,3:5", "2,3:6", "3,3:6", "3,3:9"}
    with pytest.raises(DataError, match=r"hardly more than 6 problems of 2 to 2 numbers.*max_number"):
        next(stream)


def test_empty_ranges_are_refused() -> None:
    """If it fails, a configuration with no problems in it is accepted."""
    for what in ("numbers", "number", "target"):
        with pytest.raises(ValueError, match=f"min_{what} 6 exceeds max_{what} 5; lower it or raise max_{what}"):
            CountdownConfig.model_validate({f"min_{what}": 6, f"max_{what}": 5})


def test_prompts_are_in_the_alphabet_and_hold_the_problem() -> None:
    """If it fails, the tiny policy cannot read the prompt, or does not see the numbers."""
    assert BARE.phrase(PROBLEM) == "3,5,7:22="
    assert "Numbers: 3, 5, 7\nTarget: 22" in TAGGED.phrase(PROBLEM)
    shown = Countdown(CountdownConfig(shots=4))
    assert set(shown.phrase(PROBLEM)) <= set(ALPHABET)
    *examples, last = shown.phrase(PROBLEM).split("|")
    assert last == "3,5,7:22=" and len(examples) == 4
    for example in examples:
        problem, _, expression = example.partition("=")
        assert judged(expression, problem=problem) == (1.0, 1.0)


def test_examples_of_the_prompt_are_not_among_the_problems() -> None:
    """If it fails, the prompt gives an answer away. Of the 6 problems of this space the prompt shows 2."""
    config = CountdownConfig(min_numbers=2, max_numbers=2, max_number=3, min_target=4, max_target=9, shots=2)
    domain = Countdown(config)
    shown = {canonical(shot.problem) for shot in domain.shots}
    made = {canonical(problem) for problem, _ in islice(domain.problems(0), 4)}
    assert len(shown) == 2 and not shown & made


def test_answers_are_judged_by_value_and_by_numbers() -> None:
    """If it fails, right answers are refused for how they are written, or the policy learns to leave numbers out.

    The right numbers with a wrong value have the form, or there is no reward to climb before the first solution.
    """
    for answer in (REFERENCE, " 7 + (5 * 3) ", "((3)*(5))+7"):
        assert judged(answer) == (1.0, 1.0), answer
    assert judged("7-(0-3)*5", problem="0,3,5,7:22") == (1.0, 1.0)
    for answer in ("3+5+7", "3*5-7", "7/(5-3)", "3/5/7"):
        assert judged(answer) == (0.0, 1.0), answer
    for answer in ("", "22", "3*5", "3*5+7+0", "3*5+7=21", "15+7", "3*5+7*7/7", "3 5 7", "3*-5+37"):
        assert judged(answer) == (0.0, 0.0), answer


def test_division_is_exact() -> None:
    """If it fails, answers by floats pass as right, or right ones with fractions do not: 8/(3-8/3) is 24 exactly.

    An expression that divides by zero has no value, wherever it does so.
    """
    assert judged("8/(3-8/3)", problem="3,3,8,8:24") == (1.0, 1.0)
    assert judged("999999/7*7/3", problem="3,7,7,999999:333333") == (1.0, 1.0)
    assert judged("999999/999998*1", problem="1,999998,999999:1") == (0.0, 1.0)  # 1.000001, a float's near miss
    for answer in ("7/(3-3)", "(3-3)/(3-3)+7", "7/(7/(3-3))", "7*(3/(3-3))"):
        parsed = parse(answer)
        assert parsed is not None and parsed.value is None
    assert judged("7/(3-3)", problem="3,3,7:7") == (0.0, 1.0)


def test_tagged_answers() -> None:
    """If it fails, the tagged format reads something else than the last answer's tags."""
    assert judged("<answer>3*5+7</answer>", TAGGED) == (1.0, 1.0)
    assert judged("<reasoning>15 + 7</reasoning>\n<answer> 3 * 5 + 7 = 22 </answer>", TAGGED) == (1.0, 1.0)
    assert judged("<answer>1</answer><answer>3*5+7</answer>", TAGGED) == (1.0, 1.0)
    assert judged("<answer>3+5+7=15</answer>", TAGGED) == (0.0, 0.0)  # the tail is not the target
    assert judged("<answer>3+5+7=22</answer>", TAGGED) == (0.0, 1.0)
    assert judged("<answer>3*5+7=22=22</answer>", TAGGED) == (0.0, 0.0)
    assert judged("3*5+7", TAGGED) == judged("<answer>3*5+7", TAGGED) == (0.0, 0.0)


SIGNS = "\u00d7 \u2022 \\* \u00b7 \u22c5 \u2217 \u2715 \u2a2f x X * \\times \\cdot"  # of multiplication
RIGHT = [
    *(f"3 {sign} 5 + 7" for sign in SIGNS.split()),
    *(
        "[3*5]+7",
        "{3*5}+7",
        r"\left(3\times 5\right)+7",
        "\uff083*5\uff09\uff0b7",
        "3\t*5\n+7",
        "3\u00a0*\u00a05\u00a0+\u00a07",
    ),
    *(
        "$3*5+7$",
        "$$3*5+7$$",
        r"\(3*5+7\)",
        r"\[3\,\cdot\,5+7\]",
        "`3*5+7`",
        "```\n3*5+7\n```",
        "```python\n3*5+7\n```",
    ),
    *(r"\boxed{3*5+7}", r"$\boxed{3 \times 5 + 7 = 22}$", r"3*5+7=\boxed{22}", r"Together: \boxed{3*5+7}"),
    *("**3*5+7**", "*3*5+7*", '"3*5+7"', "'3*5+7'", "**3*5+7** = 22", "3*5+7 = **22**", "3*5+7.", "**3*5+7 = 22.**"),
    *("3*5+7=22", "22 = 3*5+7", "3*5+7 == 22", "3*5+7 = $22$", "(3*5+7) = 22.", "3*5+7 = 22.0"),
    r"\mathbf{3*5+7} = \text{22}",
    "\u201c3*5+7\u201d",
    *("Answer: 3*5+7", "**Answer:** 3*5+7 = 22", r"\textbf{Answer: 3*5+7}", "The final answer is $3*5+7$.", "= 3*5+7"),
    *("Answer = 3*5+7", "```python\nresult = 3*5+7\n```", r"\boxed{\text{Answer: } 3*5+7}", "Expression: `3*5+7`;"),
    *("3*5+7;", "$3*5+7$;", "3*5+7 = 22;", r"\boxed{3*5+7};", r"3\times 5+7 \\"),
]
WRONG = [
    *("-3+5*5", "+3*5+7", "3*5--7", "3*5+-7", "3*5+(-7)", "35-7-6", "3*5*7/7+7", "3*5+7+0", "3*5+7*1"),
    *("3**5+7", "3^5+7", "3//5+7", "3.0*5+7", ".3*5+7", "3e0*5+7", "3(5)+7", "(3)(5)+7", "3*5+7!", "3*5+7%", "3*5+7*"),
    *("3*5+7=21", "21=3*5+7", "3*5+7=15+7=22", "22=22", "=22", "3*5+7=", "3*5+7 or 7+3*5", "3*5+7, 7+3*5"),
    *(
        "(3*5+7",
        "3*5)+7",
        "(3*5]+7",
        "{3}{5}+7",
        r"\frac{3}{5}{7}",
        r"\frac35+7",
        r"7\frac35",
        r"\frac{3}+5*7",
        "}{",
        "3}{5*7",
        r"\sqrt{3}*5+7",
        "\uff13*5+7",
    ),
    *(
        r"\boxed{3*5+7}\boxed{3+5+7}",
        "three*5+7",
        "3*5+7 apples",
        r"3*5+7\text{ apples}",
        "3*5+7 = 22.5",
        "3*1$5+7",
        "3*5+7 $5$",
        "9**9**9",
        *("Answer: 3+5+7", "Answer: 22", "Answer: 3*5+7 = 21", "Answer: -3+25", "The answer is not 3*5+7", "Answer:"),
        *("3*5+7;3+5", "3*5;+7", "3*5 = 15; 15+7 = 22", "~3*5+7", ">= 3*5+7", "Answer: 3*5+7 or 7+3*5"),
        "__import__('os')*3*5*7",
    ),
]


@pytest.mark.parametrize("domain", [BARE, TAGGED], ids=["bare", "tagged"])
def test_an_expression_counts_however_it_is_written(domain: Countdown) -> None:
    """If it fails, a right answer scores 0 for its layout, or a wrong one passes for a right one."""
    form = "{}" if domain is BARE else "<answer>\n{}\n</answer>"
    for text in RIGHT:
        assert judged(form.replace("{}", text), domain) == (1.0, 1.0), text
    for text in WRONG:
        assert judged(form.replace("{}", text), domain)[0] == 0.0, text


def test_fractions_of_latex_bind_what_is_in_them() -> None:
    r"""If it fails, 30 / \frac{3}{5} is 30 / 3 / 5 = 2, where it is 50."""
    for problem, text in (
        ("3,5,30:50", r"30/\frac{3}{5}"),
        ("3,5,30:18", r"30 \times \dfrac {3} {5}"),
        ("3,3,8,8:24", r"\frac{8}{3-\frac{8}{3}}"),
        ("3,3,8,8:24", r"\dfrac 8{3-\tfrac83}"),
        ("3,3,8,8:24", r"\cfrac{8}{3-\cfrac 8 3}"),
        ("3,5,8:1", r"\boxed{\frac{3+5}{8} = 1}"),
        ("2,4,9:7", "9 \u2212 4 \u00f7 2"),
        ("2,4,9:7", "9 \u2013 4/2"),
    ):
        assert judged(f"<answer>{text}</answer>", TAGGED, problem) == (1.0, 1.0), text
    assert judged(r"\frac{7}{3-3}", problem="3,3,7:7") == (0.0, 1.0)


def test_long_answers_are_read_within_a_limit() -> None:
    """If it fails, a flood of signs holds up the scorer, or an expression is looked for in a whole essay."""
    assert judged(f"{' ' * 10_000}3*5+7{' ' * 10_000}") == (1.0, 1.0)
    assert judged(rf"{'so ' * 300}\boxed{{3*5+7}}") == (1.0, 1.0)
    assert judged(rf"{'so ' * 400}\boxed{{3*5+7}}") == (0.0, 0.0)


def test_rows_of_a_data_set() -> None:
    """If it fails, Countdown-Tasks-3to4 cannot be read, or its unsolvable rows train the policy on nothing."""
    for numbers in ([95, 21, 3], "95,21,3", "[95, 21, 3]", "95 21 3"):
        assert BARE.read({"numbers": numbers, "target": 88}) == Problem("95,21,3:88", "95-21/3")
    for numbers in ([95.0, 21.0, 3.0], ["95", "21", "3"], "(95, 21, 3)", "[95 21  3]", "95.0,21.0,3.0"):
        for target in (88, "88", 88.0, "88.0", " 88 "):  # a column with gaps has become floats
            assert BARE.read({"numbers": numbers, "target": target}).problem == "95,21,3:88"
    with pytest.raises(DataError, match=r"'1,1:99' has no solution"):
        BARE.read({"numbers": [1, 1], "target": 99})


def test_rows_and_problems_that_are_none_are_named() -> None:
    """If it fails, a broken data set, or an impossible problem of a file, turns into prompts without a reward."""
    deep: list[object] = []  # deeper than Python calls functions
    for _ in range(10_000):
        deep = [deep]
    gaps = ["1,,2", "1,2" + " " * 200 + ",3"]  # of which only some numbers might be read
    for numbers in ([1], [1] * 7, [1, -2], [1.5, 2], [True, 1], None, *gaps, "1;2", "1" * 10**6, b"35", deep):
        with pytest.raises(DataError, match="numbers must be 2 to 6 whole numbers"):
            BARE.read({"numbers": numbers, "target": 5})
    for problem in ("3:3", "3,5,07:22", "\N{ARABIC-INDIC DIGIT THREE},5,7:22"):
        assert "is not 2 to 6 numbers and a target" in str(BARE.fault(problem, REFERENCE))
    assert "is not solved by '3+5+7'" in str(BARE.fault(PROBLEM, "3+5+7"))


def values(numbers: tuple[int, ...]) -> set[Fraction]:
    """Every value of every expression of these numbers, the plain way: join any two, in every order."""
    found: set[Fraction] = set()

    def join(pool: tuple[Fraction, ...]) -> None:
        if len(pool) == 1:
            found.add(pool[0])
        for first, second in itertools.permutations(range(len(pool)), 2):
            rest = tuple(value for index, value in enumerate(pool) if index not in (first, second))
            left, right = pool[first], pool[second]
            for value in (left + right, left - right, left * right, *([left / right] if right else [])):
                join((*rest, value))

    join(tuple(map(Fraction, numbers)))
    return found


@pytest.mark.parametrize("numbers", [(4, 4), (0, 5, 7), (9, 9, 9), (3, 3, 8, 8)])
def test_the_search_finds_exactly_what_can_be_reached(numbers: tuple[int, ...]) -> None:
    """If it fails, solvable rows are dropped or unsolvable ones kept."""
    reachable = values(numbers)
    for target in range(100):
        found = solve(numbers, target)
        assert (found is not None) == (target in reachable), target
        if found is not None:
            parsed = parse(found)
            assert parsed is not None and parsed.value == target and sorted(parsed.numbers) == sorted(numbers)


def test_the_search_manages_six_numbers() -> None:
    """If it fails, reading a data set of six numbers takes days. The target is a well-known hard one."""
    parsed = parse(solve([25, 50, 75, 100, 3, 6], 952) or "")
    assert parsed is not None and parsed.value == 952


def written(source: random.Random, depth: int) -> tuple[str, Fraction | None]:
    """A random expression with needless parentheses and spaces, and its value; None after a zero divisor."""
    if depth == 0 or source.random() < 0.3:
        number = source.randint(0, 12)
        return str(number), Fraction(number)
    (left, first), (right, second) = written(source, depth - 1), written(source, depth - 1)
    sign, space = source.choice("+-*/"), source.choice(["", " "])
    text = f"({left}){space}{sign}{space}({right})"
    if first is None or second is None or (sign == "/" and not second):
        return text, None
    results = {"+": first + second, "-": first - second, "*": first * second}
    return text, first / second if sign == "/" else results[sign]


def test_the_parser_agrees_with_fractions() -> None:
    """If it fails, expressions have a wrong value."""
    usual = [("2-3-4", -5), ("2-(3-4)", 3), ("12/3/2", 2), ("12/(3/2)", 8), ("2*3+4*5", 26), ("1-2*3/4", -0.5)]
    for text, number in usual:
        parsed = parse(text)
        assert parsed is not None and parsed.value == number, text
    source = random.Random(0)
    checked = 0
    for _ in range(1000):
        text, value = written(source, 3)
        parsed = parse(text)
        if parsed is not None:
            checked += 1
            assert parsed.value == value, text
    assert checked > 300


def test_limits_of_an_expression() -> None:
    """If it fails, the limits are not where the document says, or expressions within them are refused."""
    assert parse("+".join("7" * 6)) is not None
    assert parse("(" * 99 + "77" + ")" * 99) is not None and parse("(" * 100 + "7" + ")" * 100) is None
    assert parse("+".join("7" * 7)) is None
    assert parse("999999") is not None and parse("1000000") is None
