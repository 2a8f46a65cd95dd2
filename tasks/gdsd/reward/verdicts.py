"""Verdicts of a domain, which may be a user's own code: each is one, with every part in its range, or is refused."""

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from tasks.gdsd.domains import Answer, Domain, Verdict
from tasks.gdsd.domains.base import SLACK
from tasks.gdsd.errors import DataError, Interrupted, SandboxError, ServiceError
from tasks.gdsd.modules.own import raised_at

REMARK = 1000  # characters of a remark at most; what is longer is cut


def require_verdicts(domain: Domain, answers: Sequence[Answer], name: str) -> list[Verdict]:
    """Returns the domain's verdict on each answer, with plain floats and bools.

    Raises:
        DataError: the domain raised an error, or its verdicts are not what it declares; the message has the answer.
        SandboxError, ServiceError: what the domain judges by cannot be used.
    """
    try:
        found = domain.verify_all(answers)
    except (SandboxError, ServiceError, Interrupted):  # no answer's fault
        raise
    except (Exception, SystemExit) as error:  # a user's own code may raise anything, and `exit()` would end the run
        raise DataError(
            f"domain {name!r} raised {_said(error)}; verify must return a verdict on any text, with None for a part "
            "that it cannot judge"
        ) from error
    if not isinstance(found, Sequence) or len(found) != len(answers):
        given = f"{len(found)} verdicts" if isinstance(found, Sequence) else f"{found!r:.60}"
        raise DataError(
            f"domain {name!r} gave {given} on {len(answers)} answers; wanted is a list with one for each, with the "
            f"parts {', '.join(domain.parts)}"
        )
    return [_checked(domain, answer, verdict, name) for answer, verdict in zip(answers, found, strict=True)]


def _said(error: Exception | SystemExit) -> str:
    """Returns an error in words: what, on which answer, and where in the user's own code."""
    notes = getattr(error, "__notes__", [])  # of `Domain.verify_all`
    return " ".join([f"{type(error).__name__}: {error!s:.200}", *notes]) + raised_at(error)


def _checked(domain: Domain, answer: Answer, verdict: object, name: str) -> Verdict:
    """Returns a verdict with plain values."""

    def refuse(what: str, wanted: str) -> DataError:
        return DataError(
            f"domain {name!r} gave {what} on the answer {answer.text!r:.60} to {answer.problem!r:.60}; "
            f"wanted is {wanted}"
        )

    if not isinstance(verdict, Verdict) or not isinstance(verdict.parts, Mapping):
        raise refuse(f"{verdict!r:.60}", "a Verdict with the parts " + ", ".join(domain.parts))
    if set(verdict.parts) != set(domain.parts):
        given = ", ".join(map(str, verdict.parts)) or "none"
        raise refuse(f"the parts {given:.80}", f"each of {', '.join(domain.parts)}")
    if verdict.solved is not None and not isinstance(verdict.solved, bool | np.bool_):
        raise refuse(f"solved as {verdict.solved!r:.40}", "True, False, or None for what cannot be judged")
    if not isinstance(remark := verdict.remark, str | None):
        raise refuse(f"the remark {remark!r:.40}", "a text, or None")
    parts: dict[str, float | None] = {}
    for part, value in verdict.parts.items():
        if value is None:
            parts[part] = None
        elif isinstance(value, Real | np.bool_) and -SLACK <= value <= 1 + SLACK:  # which NaN is not
            parts[part] = min(1.0, max(0.0, float(value)))
        else:
            raise refuse(
                f"{value!r:.40} for the part {part}", "a number from 0 to 1, or None for what cannot be judged"
            )
    solved = None if verdict.solved is None else bool(verdict.solved)
    return Verdict(parts, solved, None if remark is None else _shortened(remark))


def _shortened(remark: str) -> str:
    """Returns a remark as a table can hold it: no longer than `REMARK`, and without halves of characters."""
    whole = remark if len(remark) <= REMARK else f"{remark[:REMARK]} [...]"
    return whole.encode(errors="replace").decode()
