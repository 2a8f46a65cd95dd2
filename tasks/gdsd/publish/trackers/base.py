"""What a tracker of experiments is told of a run, while it goes on and when it has ended."""

import hashlib
import json
from collections.abc import Iterator

from tasks.gdsd.config.at_home import public
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.records import Progress, Record
from tasks.gdsd.run.metrics import metrics
from tasks.gdsd.run.run_record import RunRecord

# What says nothing of which run it is: where it ran and is told of, and when it is to end.
ASIDE = {"hardware", "publish", "rounds", "patience"}


class Row(Record):
    """What a round came to, under the names of the documentation."""

    round: int
    unix_seconds: float  # when the round's updates were done
    numbers: dict[str, float]
    words: dict[str, str]


class TrackedRun(Record):
    """A run of one round or more."""

    id: str  # of the experiment and its first round, so that a run that goes on, also with more rounds, is the same
    name: str
    config: dict[str, str | int | float | bool | None]  # by dotted path
    rows: list[Row]
    results: dict[str, float]  # on the test problems, none while the run goes on
    verdict: str | None = None  # None while the run goes on


def so_far(config: TrainConfig, rounds: Progress, began: float) -> TrackedRun:
    """Returns what a tracker is told of a run that goes on.

    Args:
        rounds: of which there is at least one, with their validations.
        began: when it began its rounds, in seconds since 1970; see `round_times`.
    """
    rows = []
    for row, epoch in zip(metrics(config.hardware, rounds, began), rounds.epochs, strict=True):
        found = {name: value for name, value in row.items() if value is not None and "/" in name}
        numbers = {name: float(value) for name, value in found.items() if not isinstance(value, str)}
        words = {name: value for name, value in found.items() if isinstance(value, str)}
        rows.append(Row(round=epoch.round, unix_seconds=epoch.ended_unix_seconds, numbers=numbers, words=words))
    # A round from the cache has the times at which it was computed. One that was computed again is another.
    first = [rounds.rewards[0].model_dump_json(), rounds.epochs[0].model_dump_json()]
    content = json.dumps([config.model_dump(mode="json", exclude=ASIDE), *first])
    return TrackedRun(
        id=hashlib.sha256(content.encode()).hexdigest()[:16],
        name=config.name,
        config=dict(_flat("", public(config.model_dump(mode="json", exclude={"publish"})))),
        rows=rows,
        results={},
    )


def ended(record: RunRecord) -> TrackedRun:
    """Returns what a tracker is told of a run that has ended."""
    run = so_far(record.config, record.progress(), record.began_unix_seconds)
    verdict = f"{record.answer().words}; {record.decision.verdict()}"
    return run.model_copy(update={"results": record.results(), "verdict": verdict})


def _flat(place: str, value: object) -> Iterator[tuple[str, str | int | float | bool | None]]:
    """Yields the values of nested mappings by their dotted path; what lists hold is JSON."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(f"{place}.{name}" if place else name, item)
    elif value is None or isinstance(value, str | int | float):
        yield place, value
    else:
        yield place, json.dumps(value)
