"""Reports of failures: what follows from each kind, whatever its words are."""

from pathlib import Path

import pytest

from tasks.gdsd.distill import failures
from tasks.gdsd.distill.failures import FailureReport, LostProcessError, ProcessError
from tasks.gdsd.distill.memory import OutOfMemoryError, SharedShortageError
from tasks.gdsd.errors import CheckpointError, ConfigError, GdsdError
from tasks.gdsd.transient import may_pass


class StrangerError(GdsdError):
    """An error whose class the reader of a report does not know."""


def told(error: BaseException, folder: Path) -> FailureReport:
    """The report of an error, as another process reads it."""
    try:
        raise error
    except BaseException as raised:
        failures.leave(FailureReport.of(raised), folder, 3)
    return failures.collect(folder)[3]


@pytest.mark.parametrize(
    ("error", "kind", "raised"),
    [
        (ConfigError("out of memory"), "refusal", ConfigError),
        (OutOfMemoryError("was killed"), "refusal", OutOfMemoryError),
        (SharedShortageError("x", 400, smallest=True), "shortage", SharedShortageError),
        (ConnectionResetError("SharedShortageError: 400 tokens"), "loss", LostProcessError),
        (KeyError("fewer cannot be scored at a time"), "crash", ProcessError),
        (SystemExit(3), "crash", ProcessError),
    ],
)
def test_each_kind_is_raised_as_its_own(
    error: BaseException, kind: str, raised: type[Exception], tmp_path: Path
) -> None:
    """If it fails, Flyte tries a refusal again, or gives up after a loss; or an epoch starts again after a crash."""
    found = told(error, tmp_path)
    again = found.exception()
    assert found.kind == kind and type(again) is raised and may_pass(again) == (kind == "loss")
    assert (str(again) == str(error)) if kind in ("refusal", "shortage") else (repr(error.args[0])[1:-1] in str(again))
    if isinstance(again, SharedShortageError):
        assert (again.tokens, again.smallest) == (400, True)


def test_a_refusal_of_an_unknown_class_is_one_of_the_project(tmp_path: Path) -> None:
    """If it fails, the launcher ends in an error of its own, and hides the one that a person can act on."""
    found = told(StrangerError("what, 3, why"), tmp_path).model_copy(update={"error": "Elsewhere"}).exception()
    assert type(found) is GdsdError and str(found) == "what, 3, why"


def test_the_oldest_report_is_the_first(tmp_path: Path) -> None:
    """If it fails, a person reads of a broken connection, and not of what broke it; or half a report is read."""
    first, later = FailureReport.of(CheckpointError("cause")), FailureReport.of(KeyError("effect"))
    failures.leave(later, tmp_path, 0)
    failures.leave(first, tmp_path, 1)
    (tmp_path / "2.partial").write_text("{")
    assert list(failures.collect(tmp_path).items()) == [(1, first), (0, later)]
