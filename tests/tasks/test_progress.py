"""The page of a local run that goes on: where it lies, when it was drawn, and where it leads."""

import logging
import os
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
    assert re.fullmatch("progress-twin-19700101-000010-[0-9a-f]{8}", first), "a time of the run, in every time zone"
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


def test_a_run_names_its_page_once_and_does_not_end_for_it(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a run that goes on has a page that nobody finds, or ends where two share one or a disk is full."""
    caplog.set_level(logging.INFO, progress.logger.name)
    run = go("shared")
    (file,) = tmp_path.glob("*/progress.html")
    progress._say.cache_clear()  # as in another process

    def said() -> list[str]:
        words = [record.getMessage() for record in caplog.records if str(file) in record.getMessage()]
        caplog.clear()
        return words

    assert len(said()) == 1
    go("shared", go("shared", run))
    assert len(said()) == 1
    replace = os.replace

    def after_another(new: Path, page: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        progress._write(page, "another run's")
        replace(new, page)

    monkeypatch.setattr(os, "replace", after_another)
    go("shared", run)
    assert said() == [] and list(file.parent.iterdir()) == [file] and "round 2 of 5" in file.read_text()
    file.unlink()
    file.mkdir()  # which nothing replaces
    for _ in range(2):
        go("shared", run)
    assert said() == [f"{file}, the run's page, is not kept up to date: Is a directory"]
    assert list(file.parent.iterdir()) == [file]


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
