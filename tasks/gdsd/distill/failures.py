"""Why shared work failed: a report in JSON, which a process leaves for its launcher, and a machine sends to the others.

What follows from a failure depends on its kind alone, never on the words of an error:

    refusal   an error of the project, which all processes find    raised as itself
    shortage  too little memory, in work that cannot be cut alone  `SharedShortageError`: all start again, with less
    loss      a process was killed, or lost its GPU                `LostProcessError`: another attempt may succeed
    crash     anything else                                        `ProcessError`
"""

import os
import time
import traceback
from pathlib import Path
from typing import Literal, Self

from tasks.gdsd import transient
from tasks.gdsd.distill.memory import SharedShortageError
from tasks.gdsd.errors import GdsdError, PassingError
from tasks.gdsd.records import Record

Kind = Literal["refusal", "shortage", "loss", "crash"]


class ProcessError(RuntimeError):
    """Processes that share an epoch have failed: the message has what they said."""


class LostProcessError(ProcessError, PassingError):
    """One was killed from outside, or lost what may be there the next time, such as its GPU."""


class FailureReport(Record):
    """Why a process failed, or a machine with its processes."""

    kind: Kind
    error: str  # the name of the error's class
    message: str
    story: str  # for a person: the traceback; the launcher adds those of the other processes
    seconds: float  # when it happened, since 1970
    tokens: int = 0  # of a shortage: what did not fit
    smallest: bool = False  # of a shortage: it cannot be cut

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Describes an error that was just raised."""
        shortage = error if isinstance(error, SharedShortageError) else None
        return cls(
            kind=_kind(error),
            error=type(error).__name__,
            message=str(error),
            story="".join(traceback.format_exception(error)),
            seconds=time.time(),
            tokens=0 if shortage is None else shortage.tokens,
            smallest=shortage is not None and shortage.smallest,
        )

    def exception(self) -> Exception:
        """Returns the error to raise in place of the one that another process had."""
        match self.kind:
            case "refusal":
                return _refusal(self.error)(self.message)
            case "shortage":
                return SharedShortageError(self.message, self.tokens, self.smallest)
            case "loss":
                return LostProcessError(self.story)
            case "crash":
                return ProcessError(self.story)


def leave(report: FailureReport, folder: Path, process: int) -> None:
    """Writes a report, whole or not at all, since a process may be killed meanwhile."""
    partial = folder / f"{process}.partial"
    partial.write_text(report.model_dump_json())
    os.replace(partial, folder / f"{process}.json")


def collect(folder: Path) -> dict[int, FailureReport]:
    """Returns the reports by the numbers of their processes. The first is the oldest, from which the others follow."""
    found = {int(path.stem): FailureReport.model_validate_json(path.read_text()) for path in folder.glob("*.json")}
    return dict(sorted(found.items(), key=lambda item: item[1].seconds))


def _kind(error: BaseException) -> Kind:
    if isinstance(error, SharedShortageError):
        return "shortage"
    if isinstance(error, GdsdError):
        return "refusal"
    return "loss" if transient.may_pass(error) else "crash"


def _refusal(name: str) -> type[GdsdError]:
    """Returns the class of an error of the project; the base of all where this process does not know it."""
    kinds: list[type[GdsdError]] = [GdsdError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.__name__ == name), GdsdError)
