"""The page of a local run that goes on: where it lies, when it was drawn, and where it leads."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import progress
from tasks.flyte.pace import Pace
from tasks.gdsd.records import Progress
from tests.gdsd.browsers import browser, needs_browser
from tests.gdsd.series import epoch, reward

Go = Callable[..., Progress]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """Reports one more round of a run, whose first ended at a second; each draws the page."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path))
    monkeypatch.setattr(progress, "_pace", Pace(1e9))

    def report(name: str, before: Progress | None = None, second: float = 10.0, rounds: int = 5) -> Progress:
        recorded = []
        if before is not None:
            recorded.append(tmp_path / "recorded.json.gz")
            before.write(recorded[0])
        number = len(Progress.read(recorded).epochs) + 1
        news = epoch(number).model_copy(update={"ended_unix_seconds": second * number})
        file = progress.report_progress.task_function(name, rounds, recorded, [], [reward()], [news], [])
        return Progress.read([file])

    return report


def pages(folder: Path) -> dict[str, str]:
    """Returns the rounds that the page of each folder speaks of."""
    return {
        file.parent.name: re.search(r"<h1>(.*?)</h1>", file.read_text())[1]  # type: ignore[index]
        for file in folder.glob("*/progress.html")
    }


def test_each_run_has_a_page_of_its_own_and_keeps_it(go: Go, tmp_path: Path) -> None:
    """If it fails, two runs of one name write into one page, or a run that goes on has two.

    The first round of a run that goes on comes from the cache, and has the times at which it was computed.
    """
    one = go("twin")
    (first,) = pages(tmp_path)
    assert re.fullmatch(r"progress-twin-\d{8}-\d{6}-[0-9a-f]{8}", first), "the form of all folders of local runs"
    other = go("twin", second=10.5)
    assert sorted(pages(tmp_path).values()) == ["twin: round 1 of 5"] * 2
    go("twin", one)
    go("twin", go("twin", other), rounds=9)
    assert sorted(pages(tmp_path).values()) == ["twin: round 2 of 5", "twin: round 3 of 9"]
    assert pages(tmp_path)[first] == "twin: round 2 of 5"


def test_the_page_says_when_it_was_drawn_and_reloads_itself(go: Go, tmp_path: Path) -> None:
    """If it fails, a reader takes the page of yesterday's run for this one's, or has to load it by hand."""
    before = int(time.time())
    go("a-run")
    (file,) = tmp_path.glob("*/progress.html")
    said = re.search(r"Drawn on ([-\d]+) at ([:\d]+) UTC", file.read_text())
    assert said is not None
    drawn = datetime.fromisoformat(f"{said[1]}T{said[2]}").replace(tzinfo=UTC)
    assert before <= drawn.timestamp() <= time.time()
    assert "<meta http-equiv='refresh' content='30'>" in file.read_text()


@needs_browser
def test_a_page_that_is_open_becomes_the_report(go: Go, tmp_path: Path) -> None:
    """If it fails, whoever watches a run does not find what came of it."""
    run, report = go("a-run"), tmp_path / "run-a-run" / "report.html"
    report.parent.mkdir()
    report.write_text("<title>the report</title>")
    progress.lead_to(report, "another", run)
    (file,) = tmp_path.glob("*/progress.html")
    progress.lead_to(report, "a-run", run)
    assert "<a href='../run-a-run/report.html'>report</a>" in file.read_text()
    with browser() as running:
        page = running.new_page()
        page.goto(file.as_uri(), wait_until="commit")
        page.wait_for_url(report.as_uri())
        assert page.title() == "the report"
