"""What a verdict says to readers: the value of an expression, and the test that failed."""

from tasks.gdsd.domains.base import Answer
from tasks.gdsd.domains.code import Code, CodeConfig
from tasks.gdsd.domains.countdown import Countdown, CountdownConfig


def test_countdown_says_the_value_and_the_distance() -> None:
    """If it fails, a reader works out every expression of the report by hand."""
    bare, tagged = Countdown(), Countdown(CountdownConfig(format="tagged"))
    for answer, said in (
        ("3*5+7", "Its value is 22, the target."),
        ("3*7+5", "Its value is 26, 4 above the target."),
        ("3/5*7", "Its value is 21/5, 89/5 below the target."),
        ("7-3*5", "Its value is -8, 30 below the target."),
        ("3*5", "Its value is 15, 7 below the target; its numbers are 3, 5."),
        ("22", "Its value is 22, the target; its numbers are 22."),
        ("7/(5-5)", "It divides by zero; its numbers are 7, 5, 5."),
        ("<b>", "It is no expression that can be read."),
    ):
        assert bare.verify("3,5,7:22", "3*5+7", answer).remark == said
        assert tagged.verify("3,5,7:22", "3*5+7", f"<answer>{answer}</answer>").remark == said


FUNCTION = '{"entry_point":"f","prefix":"","setup":"","tests":["assert f(1) == 1","assert f(2) == 4"]}'
PROGRAM = '{"cases":[{"stdin":"1 2","stdout":"3"},{"stdin":"2 2","stdout":"4"}]}'


def test_code_says_which_test_failed_first_and_what_a_program_wrote() -> None:
    """If it fails, a reader has to run the hostile code of an answer to see what is wrong with it."""
    read = "Test 2 failed. It read:\n2 2\nIt should write:\n4\nIt wrote:\n"
    wanted = {
        (FUNCTION, "def f(x):\n    return x * x"): None,
        (FUNCTION, "def f(x):\n    return x"): "1 of 2 tests passed. Test 2 failed:\nassert f(2) == 4",
        (FUNCTION, "def f(x):\n    return 4"): "1 of 2 tests passed. Test 1 failed:\nassert f(1) == 1",
        (FUNCTION, "def f(x:"): "No block is code that compiles.",
        (FUNCTION, "def f(x):\n    while True: pass"): "It ran out of time, so no test counts as passed.",
        (PROGRAM, "print(sum(map(int, input().split())))"): None,
        (PROGRAM, "print(3)"): f"1 of 2 tests passed. {read}3",
        (PROGRAM, "if input() < '2':\n    print(3)"): f"1 of 2 tests passed. {read}nothing",
        (PROGRAM, "print('<b>' * 100 if input() > '2' else 3)"): f"1 of 2 tests passed. {read}{'<b>' * 66}<b [...]",
        (PROGRAM, "a = input()\nprint(3 if a < '2' else 4)\nexit(int(a[0]) - 1)"): f"1 of 2 tests passed. {read}"
        "the same, but it did not end with status 0",
    }
    domain = Code(CodeConfig(isolation="none", seconds=1))
    verdicts = domain.verify_all([Answer("x", reference, f"```python\n{code}\n```") for reference, code in wanted])
    assert [verdict.remark for verdict in verdicts] == list(wanted.values())
    assert domain.verify("x", FUNCTION, "f(x) = x").remark == "It has no fenced block."
