"""Which validation was the best, and when a run has gone on for long enough without a better one."""

from collections.abc import Sequence

from tasks.gdsd.records import EvalReport


def best(reports: Sequence[EvalReport]) -> int:
    """Returns the index of the report with the highest solved share, then reward, then round."""
    return max(range(len(reports)), key=lambda i: (*_reached(reports[i]), reports[i].round))


def fruitless(reports: Sequence[EvalReport]) -> int:
    """Returns how many validations there were since the last one that was better than all before it.

    One that only equals the best so far is not better, though it is preferred to it when the best is published.
    """
    return len(reports) - 1 - first_best(reports) if reports else 0


def first_best(reports: Sequence[EvalReport]) -> int:
    """Returns the index of the first report that none is better than."""
    reached = [_reached(report) for report in reports]
    return reached.index(max(reached))


def has_stopped(reports: Sequence[EvalReport], patience: int | None) -> bool:
    """Says whether a run with these validations so far goes no further."""
    return patience is not None and fruitless(reports) >= patience


def _reached(report: EvalReport) -> tuple[float, float]:
    return report.solved.mean, report.reward.mean
