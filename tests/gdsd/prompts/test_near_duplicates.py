"""Near-duplicates: exactly the Jaccard index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gdsd.domains.answers import shingles
from tasks.gdsd.domains.code import Code
from tasks.gdsd.domains.countdown import Countdown
from tasks.gdsd.domains.gsm8k import Gsm8k, Gsm8kConfig
from tasks.gdsd.domains.sudoku import Sudoku
from tasks.gdsd.prompts.near_duplicates import features, nearest

# Few letters, so that many pairs share some; each text is its own set of features.
TEXTS = st.lists(st.text("abcdef", max_size=6), max_size=12)


def letters(text: str) -> frozenset[str]:
    return frozenset(text)


def brute(texts: list[str], others: list[str], similarity: float) -> list[int | None]:
    """Compares every pair; of several that are alike the first counts."""
    found: list[int | None] = []
    for text in texts:
        jaccards = [
            len(letters(text) & letters(other)) / len(letters(text) | letters(other)) if text or other else 0.0
            for other in others
        ]
        best = max(jaccards, default=0.0)
        found.append(jaccards.index(best) if best >= similarity else None)
    return found


@given(TEXTS, TEXTS, st.sampled_from([0.1, 1 / 3, 0.5, 2 / 3, 0.8, 1.0]))
def test_the_nearest_is_that_of_comparing_every_pair(texts: list[str], others: list[str], similarity: float) -> None:
    """If it fails, near-duplicates pass unseen, or different problems are refused as copies."""
    assert nearest(texts, others, letters, similarity) == brute(texts, others, similarity)


@pytest.mark.parametrize(("similarity", "found"), [(0.8, [0]), (0.8 + 1e-9, [None]), (0.79, [0])])
def test_the_threshold_is_included(similarity: float, found: list[int | None]) -> None:
    """If it fails, `similarity: 0.8` lets pass what is 0.8 alike. 4 of 5 letters are shared."""
    assert nearest(["abcde"], ["abcd"], letters, similarity) == found


def test_nothing_is_like_nothing() -> None:
    """If it fails, an empty split or a domain without features ends in a traceback."""
    assert nearest([], ["a"], letters, 0.5) == []
    assert nearest(["a"], [], letters, 0.5) == [None]
    assert nearest(["", "a"], ["", "b"], letters, 0.5) == [None, None]


def test_problems_in_words_are_alike_by_runs_of_words() -> None:
    """If it fails, a change of a name or of punctuation hides a copied word problem, or a common phrase makes one."""
    text = (
        "Mirela baked 48 buns for her neighbours on Friday, and then she baked half as many buns on Sunday. "
        "How many buns did Mirela bake altogether on Friday and Sunday?"
    )
    others = [
        "Mirela baked bread. How many loaves did Mirela bake altogether?",
        text.replace("48", "36"),
        text.upper().replace(",", ";").replace("MIRELA", "MIRELA:"),
    ]
    assert nearest([text], others[:1], shingles, 0.3) == [None]
    assert nearest([text], others[:2], shingles, 0.6) == [1]
    assert nearest([text], others, shingles, 1.0) == [2]


def test_countdown_minds_no_order_and_sudoku_only_equality() -> None:
    """If it fails, a problem that differs in the order of its numbers alone counts as another one."""
    assert nearest(["7,3,5:22", "3,5,7:23"], ["3,5,7:22"], Countdown().shingles, 1.0) == [0, None]
    puzzle = "1.34341.2143.321"
    assert nearest([puzzle, puzzle.replace("1", ".", 1)], [puzzle], Sudoku().shingles, 0.1) == [0, None]


DOMAIN = Gsm8k(Gsm8kConfig())
FRAMES = st.just("") | st.lists(st.sampled_from("abc"), min_size=3, max_size=12).map(" ".join)


@given(st.lists(st.text("xyz ", max_size=30), min_size=5, max_size=12), FRAMES, FRAMES)
def test_problems_are_as_much_alike_with_an_instruction_as_without_it(
    texts: list[str], before: str, after: str
) -> None:
    """If it fails, an instruction makes copies of different problems, or hides a copy, in the same split or another."""
    plain = [" ".join(f"{word}{number}" for word in (text or "x").split(" ")) for number, text in enumerate(texts)]
    framed = [f"{before} {text} {after}" for text in plain]
    found = features(DOMAIN, plain, framed)
    assert list(map(found, framed)) == list(map(found, plain)) == [shingles(text) for text in plain]


def test_an_instruction_is_found_wherever_it_stands() -> None:
    """If it fails, what stands in the middle of all problems makes near-duplicates of them: a number before it, or the
    function's name behind it, is enough."""
    instruction = "Think step by step and write the answer alone behind four hash marks."
    framed = [f"Problem {number}. {instruction} What are {number} and {number}?" for number in range(8)]
    found = features(DOMAIN, framed)
    assert found(framed[7]) == shingles("problem 7. 7 and 7?")
    assert nearest(framed[:4], framed[4:], found, 0.1) == [None] * 4
    copy = framed[7].replace("step by step", '"step by step",').replace("marks.", "marks:").upper()
    assert nearest([copy], framed, features(DOMAIN, framed, [copy]), 1.0) == [7]


SENTENCES = {
    "Chinese": "小明有5个苹果。他又买了3个。请问他现在一共有多少个苹果。",
    "Japanese": "太郎は鉛筆を12本持っています。友達に5本あげると、残りは何本ですか。",
    "Thai": "สมชายมีแอปเปิ้ล 5 ผล ซื้อเพิ่มอีก 3 ผล รวมมีกี่ผล",
}


@pytest.mark.parametrize("text", SENTENCES.values(), ids=SENTENCES.keys())
def test_languages_without_spaces_are_compared_by_their_characters(text: str) -> None:
    """If it fails, a copied problem passes unseen where a sentence is one word, or an instruction makes copies of all.

    The others are sentences of the next characters of the script.
    """
    *others, instruction = ("".join(chr(ord(letter) + step) for letter in text) for step in range(1, 7))
    changed = text.replace("5", "6")
    assert nearest([changed, *others], [text], features(DOMAIN, others, [text]), 0.7) == [0, *[None] * 5]
    found = features(DOMAIN, [instruction + other for other in others], [instruction + changed])
    assert found(instruction + changed) == shingles(changed)


def test_code_is_compared_without_the_test_that_is_shown() -> None:
    """If it fails, a task passes as another one for the values of its test, or all are alike for an instruction."""
    instruction = "Use no library, explain each line, and return the result of the function, as the examples do."
    code = Code()

    def asked(name: str, value: int, *, more: str = "") -> str:
        tests = [f"assert f([{value}, {each}], {value}, {value}) == {each}" for each in range(2)]
        return code.read({"problem": f"Write a function to find the {name} of a list.{more}", "tests": tests}).problem

    train = [asked(f"{letter}1 {letter}2 {letter}3 {letter}4 {letter}5", 1) for letter in "abcde"]
    test = [asked(f"{letter}1 {letter}2 {letter}3 {letter}4 {letter}5", 2, more=instruction) for letter in "vwxyza"]
    assert nearest(test, train, features(code, train, test), 0.7) == [None] * 5 + [0]


def test_few_problems_have_no_instruction() -> None:
    """If it fails, two versions of one problem are told apart by all that is not the same in them."""
    long = "Mirela baked 48 buns for her neighbours on Friday, and half as many on Sunday. How many did she bake?"
    versions = [long.replace("48", str(number)) for number in (36, 48, 60, 72)]
    found = features(DOMAIN, versions)
    assert nearest(versions[:1], versions[1:], found, 0.6) == [0]
    assert found(versions[0]) == shingles(versions[0])
