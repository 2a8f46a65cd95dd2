"""The pages in a real browser: what is in sight at once, on a phone, in the dark, and with hostile texts."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from flytekit import Deck, current_context
from flytekit.deck.deck import _get_deck
from playwright.sync_api import Browser

from tasks.failure import Failure
from tasks.gdsd import report
from tasks.gdsd.records import Progress
from tasks.gdsd.report import comparison
from tasks.gdsd.report.style import document
from tests.gdsd.browsers import CONTRASTS, DESKTOP, PHONE, SMALL_PHONE, browser, needs_browser, opened
from tests.gdsd.report import test_comparison
from tests.gdsd.report.records import (
    HOSTILE,
    PARTS,
    answers,
    decided,
    guard,
    hostile,
    pairs,
    record,
    rendered,
    step,
)

pytestmark = needs_browser
LONG = "x" * 3000
RIGHT_TO_LEFT = "\u202e\u05e9\u05dc\u05d5\u05dd abc \u202e"
TEXTS = [
    "h1",
    ".sub",
    ".question",
    ".tile b",
    ".tile p",
    ".key",
    "figure svg text",
    "td",
    "th",
    "pre",
    ".remark",
    "p",
    "summary",
]
MARKS = [".good", ".bad", ".muted", ".a", ".b", ".strip .t9", ".strip sub", ".grid bdi", ".grid i", ".grid sub"]


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as started:
        yield started


STRUCTURE = """() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const ids = all('[id]').map(one => one.id), known = new Set(ids), references = [];
  for (const one of all('svg *'))
    for (const { value } of one.attributes)
      references.push(...[...value.matchAll(/^#([\\w-]+)|url\\(#([\\w-]+)\\)/g)].map(match => match[1] || match[2]));
  return {
    twice: ids.filter((id, place) => ids.indexOf(id) !== place),
    lost: references.filter(id => !known.has(id)),
    references: references.length,
    uncaptioned: all('table').filter(one => !one.caption?.innerText.trim()).length,
    headless: all('th').filter(one => !one.scope || !one.innerText.trim()).length,
    untitled: all('figure').filter(one => !one.querySelector('figcaption b')?.innerText.trim()).length,
    unsaid: all('svg').filter(one => !(one.getAttribute('role') === 'img' && one.ariaLabel)).length,
  };
}"""


@pytest.fixture(scope="module")
def page() -> str:
    """The report of a run with a fixed and a broken answer, and two that are cut off; the broken one is a grid."""
    base = answers(["left", "wrong", "1234341221434321", "a b c"], [0.0, 0.25, 1.0, None])
    trained = answers(["right", "good", "12343411.1434321", "d e f"], [0.25, 1.0, 0.5, 0.5])
    drawn = {"problem": "1.34341.2143.321", "reference": "1234341221434321", "remark": "One cell is wrong."}
    pairs = [
        table.from_pylist([row | (drawn if row["prompt_id"] == "test-2" else {}) for row in table.to_pylist()], PARTS)
        for table in (base, trained)
    ]
    return rendered(record(), report.pair_samples(*pairs))


def test_the_answer_is_in_sight_without_scrolling(running: Browser, page: str) -> None:
    """If it fails, a reader has to look for whether it got better, by how much, how sure and at what cost."""
    with opened(running, page) as seen:
        assert seen.page.locator(".tile").count() == 4
        assert seen.bottom(".tile, .top figure") < DESKTOP[1]
    with opened(running, page, PHONE) as seen:
        assert seen.bottom(".tile") < PHONE[1] and seen.bottom(".top figure") < 1.1 * PHONE[1]


@pytest.mark.parametrize("size", [DESKTOP, PHONE, SMALL_PHONE])
def test_nothing_is_wider_than_the_window(running: Browser, page: str, size: tuple[int, int]) -> None:
    """If it fails, a reader has to move the page sideways for every line; tables scroll in themselves."""
    with opened(running, page, size) as seen:
        seen.page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert not seen.wide()
        assert not (seen.complaints or seen.requests)


def test_it_can_be_read_in_light_and_in_dark(running: Browser, page: str) -> None:
    """If it fails, texts or curves vanish in one of the two; 4.5 is what WCAG asks of a text's contrast."""
    backgrounds = []
    for dark in (False, True):
        with opened(running, page, dark=dark) as seen:
            found = seen.page.evaluate(CONTRASTS, TEXTS + MARKS)
            assert None not in found.values(), found
            assert {text: contrast for text, contrast in found.items() if contrast < 4.5} == {}
            backgrounds.append(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert seen.page.evaluate(
                "[...document.querySelectorAll('svg path')].every(one => !/rgb\\\\(1, 1, \\\\d+\\\\)/.test("
                "getComputedStyle(one).stroke))"
            ), "a curve has kept a colour that only stands for one of the page's"
    assert backgrounds[0] != backgrounds[1]


def test_hostile_texts_stay_texts(running: Browser) -> None:
    """If it fails, an answer runs code in its reader's browser, or makes the page unreadable."""
    run, _ = hostile()
    run = run.model_copy(update={"decision": decided(reason=f"{HOSTILE} {LONG}")})
    texts = [HOSTILE, f"{RIGHT_TO_LEFT}{LONG}"]
    table = report.pair_samples(answers(texts, [0.0, 0.5]), answers(texts, [1.0, 0.0]))
    for size in (DESKTOP, SMALL_PHONE):
        with opened(running, rendered(run, table), size) as seen:
            assert not seen.wide()
            assert seen.page.locator("script, img, iframe, [onerror]").count() == 0
            assert HOSTILE in seen.text() and RIGHT_TO_LEFT in seen.text()
            assert not (seen.complaints or seen.requests)


def test_it_is_the_same_in_a_deck(running: Browser, page: str) -> None:
    """If it fails, the report in Flyte's console is cut off, unreadable or without its figures."""
    parameters = current_context()
    parameters.decks.clear()
    Deck("Report", page)
    deck = _get_deck(parameters, ignore_jupyter=True)
    parameters.decks.clear()
    for size, dark in ((DESKTOP, False), (SMALL_PHONE, True)):
        with opened(running, deck, size, dark) as seen:
            assert not seen.wide()
            # A policy counts in a page of its own alone; Flyte's has none.
            assert all("outside the document's <head>" in said for said in seen.complaints)
            assert (
                seen.page.locator(".tile:visible").count() == 4 and seen.page.locator("figure svg:visible").count() > 4
            )
            assert all("fonts.googleapis.com" in address for address in seen.requests), "which is Flyte's own"
            found = seen.page.evaluate(CONTRASTS, TEXTS)
            assert min(found.values()) >= 4.5


def test_a_run_under_way_and_a_comparison_can_be_read_as_well(running: Browser) -> None:
    """If it fails, whoever looks at a run before its end, or at a comparison, on a phone in the dark sees nothing."""
    run, whole = record(), test_comparison.record(*test_comparison.RUNS)
    half = report.progress_page("a-run", 5, run.progress(), 0.0, False, [("It is flat.", "Try more.")])
    assert "round 2 of 5" in half and "Try more." in half and "Drawn on 1970-01-01 at 00:00:00 UTC." in half
    assert "http-equiv='refresh'" not in half and "Deck of `report_run`" in half, "a Deck is never drawn anew"
    compared = comparison.render(whole, comparison.curves(whole))
    for html in (half, report.progress_page("a-run", 5, Progress(), 0.0, False), compared):
        with opened(running, html, SMALL_PHONE, dark=True) as seen:
            assert not seen.wide() and not (seen.complaints or seen.requests)
            found = seen.page.evaluate(CONTRASTS, ["h1", "td", "th", "p", "pre"]).values()
            assert min(contrast for contrast in found if contrast is not None) >= 4.5


def test_all_tables_and_figures_have_names(running: Browser, page: str) -> None:
    """If it fails, who listens to a page or links into it meets tables without captions, or two things under one id."""
    whole = test_comparison.record(*test_comparison.RUNS)
    run = record(decision=decided(guards=[guard("kept", True)]))
    failed = Failure(
        workflow="train",
        experiment="a-run",
        node=None,
        task="distill_epoch",
        message="it broke",
        execution=None,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        go_on="pyflyte run",
    ).page("/a/folder")
    for html in (
        page,
        rendered(run, pairs()),
        report.progress_page("a-run", 5, run.progress(), 0.0, True),
        comparison.render(whole, comparison.curves(whole)),
        failed,
    ):
        with opened(running, html) as seen:
            seen.page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
            found = seen.page.evaluate(STRUCTURE)
            assert found.pop("references") > 0 or html is failed
            assert found == {
                "twice": [],
                "lost": [],
                "uncaptioned": 0,
                "headless": 0,
                "untitled": 0,
                "unsaid": 0,
            }


def test_it_is_whole_on_paper(running: Browser, page: str) -> None:
    """If it fails, a printed report has curves without colours or titles, cut tables and answers, or light ink.

    A page of A4 with these margins is 703 pixels wide.
    """
    with opened(running, page, (703, 1000), dark=True) as seen:
        seen.page.emulate_media(media="print")
        assert not seen.wide()
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        found = seen.page.evaluate(CONTRASTS, TEXTS + MARKS)
        assert {text: contrast for text, contrast in found.items() if contrast < 4.5} == {}
        cut = (
            "all => all.filter(one => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight).length"
        )
        assert seen.page.eval_on_selector_all(".scroll, pre", cut) == 0
        for selector, style, value in (
            (".key, .strip bdi, .grid td", "printColorAdjust", "exact"),
            ("figure, .card, .tile, .scroll", "breakInside", "avoid"),
            ("h2, h3", "breakAfter", "avoid"),
        ):
            values = f"all => [...new Set(all.map(one => getComputedStyle(one).{style}))]"
            assert seen.page.eval_on_selector_all(selector, values) == [value]


def test_a_browser_runs_and_fetches_nothing_even_if_a_text_were_not_escaped(running: Browser) -> None:
    """If it fails, one forgotten `html.escape` lets an answer run in its reader's browser."""
    with opened(running, document("a title", [HOSTILE, "<img src='http://example.org/a.png'>"])) as seen:
        assert seen.page.locator("script").count() == 1 and seen.page.locator("img").count() == 2
        assert not seen.requests
        assert seen.complaints and all("Content Security Policy" in said for said in seen.complaints)


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("Groups without spread", "all have the same reward"),
        ("Shift and residual", "from its score before the round (shift), and from its target (residual)"),
        ("Surprise", "Mean -log p of the rollouts' tokens"),
        ("Clipped gradient", "trust region stops"),
        ("Overhead of a round", "no task of it was at work"),
        ("Reward and solved problems", "completions that the model writes for training"),
    ],
)
def test_words_are_explained_where_they_stand(running: Browser, title: str, said: str) -> None:
    """If it fails, a reader has to look for a page that explains the words of this one."""
    steps = [step(0.5).model_copy(update={"nll": 0.4})]
    epochs = [epoch.model_copy(update={"steps": steps}) for epoch in record().epochs]
    with opened(running, rendered(record(epochs=epochs), pairs())) as seen:
        assert said in seen.page.locator("figure", has_text=title).first.inner_text()


def test_plain_pairs_are_shown(running: Browser) -> None:
    """If it fails, an answer is not where a reader finds it: below its verdict, with each token's step."""
    with opened(running, rendered(record(), pairs())) as seen:
        card = seen.page.locator(".card", has_text="problem 1").first
        assert card.locator(".strip").first.inner_text() == "w1r1o2n2g3"
        assert "wrong, reward 0.25" in card.inner_text() and "right, reward 1.00" in card.inner_text()
