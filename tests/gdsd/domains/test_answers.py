"""Reading answers: what counts as tagged, boxed and fenced, whatever the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gdsd.domains import answers

TAGS = ["<answer>", "</answer>", "<reasoning>", "</reasoning>", "\\boxed{"]
PIECES = [*TAGS, "{", "}", "\\", "```", "~~~", "a", "\ud800", "\n", " ", ">", "- "]


@pytest.mark.parametrize(
    "text, inside",
    [
        ("<answer>5</answer>", "5"),
        ("<answer>4</answer> no, <answer>5</answer>", "5"),
        ("<answer>5</answer></answer>", "5"),
        ("<answer>4</answer> <answer>5", None),
        ("<ANSWER>5</ANSWER>", None),
        ("5", None),
        ("", None),
    ],
)
def test_tagged(text: str, inside: str | None) -> None:
    """If it fails, another text than the final answer is judged."""
    assert answers.tagged(text) == inside


@pytest.mark.parametrize(
    "text, formed",
    [
        ("<reasoning>a</reasoning><answer>b</answer>", True),
        ("so <reasoning>a</reasoning><answer>b</answer>", False),
        ("<reasoning>a</reasoning> so <answer>b</answer>", False),
        ("<reasoning>a</reasoning><answer>b</answer> done", False),
        ("<reasoning>a<answer>b</answer></reasoning>", False),
        ("<answer>b</answer><reasoning>a</reasoning>", False),
        ("<reasoning>a</reasoning><answer>b</answer><answer>c</answer>", False),
        ("", False),
    ],
)
def test_well_formed(text: str, formed: bool) -> None:
    """If it fails, the policy is paid for another form than the prompt asks for."""
    assert answers.well_formed(text) is formed


@pytest.mark.parametrize(
    "text, inside",
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{4} or \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{3, \boxed{5}}", r"3, \boxed{5}"),
        (r"\boxed{3, \boxed{5}", "5"),
        (r"\fbox{4} \boxed {5}", "5"),
        (r"{ \boxed{5} } }{", "5"),
        (r"\boxed{5\}", None),
        (r"\boxed{4} or \boxed{5", None),
        (r"\boxed 5", None),
        ("5", None),
    ],
)
def test_boxed(text: str, inside: str | None) -> None:
    """If it fails, a part of the answer is judged, or another answer."""
    assert answers.boxed(text) == inside


@pytest.mark.parametrize(
    "text, inside",
    [
        ("none", []),
        ("```\na\n```", ["a\n"]),
        ("```python\na\n```", ["a\n"]),
        ("```\na\n``` and then ```\nb\n```", ["a\n", "b\n"]),
        ("```\na", ["a\n"]),
        ("```\na\n```\nb\n```", ["a\n"]),
        ("```python\na\n```python\nb\n```", ["a\n", "b\n"]),
        (
            '```python\ndef f():\n    """As in\n    ```\n    f()\n    ```\n    """\n```',
            ['def f():\n    """As in\n    ```\n    f()\n    ```\n    """\n'],
        ),
        ("```python\nparts = text.split('```')\n```", ["parts = text.split('```')\n"]),
        ("Here: ```python\na\n```", ["a\n"]),
        ("1. First:\n\n   ```python\n   def f():\n       a\n\n   ```\n", ["def f():\n    a\n\n"]),
        ("- ```python\n  def f():\n      a\n  ```\n", ["def f():\n    a\n"]),
        ("   ```python\ndef f():\n    a\n   ```\n", ["def f():\n    a\n"]),
        ("````\n```\na\n```\n````", ["```\na\n```\n"]),
        ("Use ```x``` so:\n```\na\n```", ["a\n"]),
        ("```\r\na\r\n```\r\n", ["a\r\n"]),
        ("```python\nreturn a```", ["return a\n"]),
        ("~~~python\na\n~~~", ["a\n"]),
        ("1. ~~~\n   a\n   ~~~", ["a\n"]),
        ("~~~~\n```\na\n```\n~~~\n~~~~", ["```\na\n```\n~~~\n"]),
        ("```\nx = '~~~'\n~~~\n```", ["x = '~~~'\n~~~\n"]),
        ("a ~~~ b\n~~ c ~~", []),
        ("> ```python\n> if a:\n>     b\n>\n> c\n> ```\n> So.", ["if a:\n    b\n\nc\n"]),
        ("> Here:\n>\n> ~~~\n> a\n\n> > b\n> ~~~\n```\nc\n```", ["a\n\n> b\n", "c\n"]),
        (">> ```\n>> a\n>>> b\n>> ```", ["a\n> b\n"]),
        ("> ```\na > b\n>>> c\n```\nd", ["a > b\n>> c\n"]),
        ("> 1. ```\n>    a\n>        b\n>    ```", ["a\n    b\n"]),
        ("- > ```\n  > a\n  >     b\n  > ```", ["a\n    b\n"]),
        ("```\n> ```\na\n```", ["> ```\na\n"]),
        ("- ```python\n    def f():\n        a\n    ```\n\nSo:\n```\n5\n```", ["  def f():\n      a\n", "5\n"]),
        ("1. a\n   - ```\n     b\n     ```\n2. c", ["b\n"]),
    ],
)
def test_fenced(text: str, inside: list[str]) -> None:
    """If it fails, another program than the answer's is run."""
    assert [block.text for block in answers.fenced(text)] == inside


def test_fenced_blocks_have_their_language() -> None:
    """If it fails, an output counts as the program that made it."""
    infos = [block.info for block in answers.fenced("```py\na\n```\n~~~ text\nb\n~~~\n- ```\n  c\n")]
    assert infos == ["py", " text", ""]


def test_shingles() -> None:
    """If it fails, near-duplicates between training and test problems are missed, or everything is one."""
    assert answers.shingles("One, two; THREE!") == answers.shingles("one two three") == {"one two three"}
    assert answers.shingles("a b c d") == {"a b c", "b c d"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 5", "3 * 5"),
        ("3 + 5", "3 - 5"),
        ("3/5", "3\u00f75"),
        ("x^2 = 4", "x2 = 4"),
        ("x = 3", "x = -3"),
        ("3", "-3"),
    ],
)
def test_signs_of_arithmetic_tell_two_sums_apart(one: str, other: str) -> None:
    """If it fails, of problems with the same numbers one is taken for a copy of the other and left out."""
    assert answers.shingles(f"What is {one}?") != answers.shingles(f"What is {other}?")
    assert answers.shingles(f"What is {one}?") == answers.shingles(f"what is: {one.replace(' ', '  ')} .")
    assert answers.shingles("a well-known rule") == answers.shingles("a well known rule")


def test_a_text_with_one_word_changed_is_a_near_duplicate() -> None:
    """If it fails, a word problem with one other number passes as new. A word is in 3 of the n = words - 2 shingles.

    So the two share n - 3 of n + 3, which is 0.6 for 14 words and 0.71 for 20; the default threshold is 0.7.
    """
    for words in (14, 20, 60):
        text = [f"w{index}" for index in range(words)]
        one, two = (answers.shingles(" ".join([*text[:7], word, *text[8:]])) for word in ("w7", "other"))
        assert len(one & two) / len(one | two) == pytest.approx((words - 5) / (words + 1))


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)))
def test_readers_never_raise(text: str) -> None:
    """If it fails, one odd answer stops a round."""
    inside = answers.tagged(text), answers.boxed(text)
    assert all(part is None or part in text for part in inside)
    assert all(line.strip() in text for block in answers.fenced(text) for line in block.text.split("\n"))
    answers.well_formed(text), answers.shingles(text)
