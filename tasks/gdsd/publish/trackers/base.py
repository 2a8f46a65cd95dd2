"""What a tracker of experiments is told of a run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.gdsd.run.run_record import RunRecord

# What says nothing of which run it is: where it ran and is told of, and when one from the cache was asked for again.
ASIDE: dict[str, bool | set[str]] = {"config": {"hardware", "publish"}, "began_unix_seconds": True}


@dataclass(frozen=True)
class Row:
    """What a round came to, under the names of the documentation."""

    round: int
    unix_seconds: float  # when the round's updates were done
    numbers: Mapping[str, float]
    words: Mapping[str, str]


@dataclass(frozen=True)
class TrackedRun:
    """A finished run."""

    id: str  # equal for equal records, so that a run that is told of again is recognised
    name: str
    config: Mapping[str, str | int | float | bool | None]  # by dotted path
    rows: list[Row]
    results: Mapping[str, float]  # on the test problems
    verdict: str
    report: Path  # one HTML page


def of(record: RunRecord, report: Path) -> TrackedRun:
    """Returns what a tracker is told of a run."""
    content = record.model_dump_json(exclude=ASIDE)
    rows = []
    for metrics, epoch in zip(record.metrics(), record.epochs, strict=True):
        found = {name: value for name, value in metrics.items() if value is not None and name != "round"}
        numbers = {name: float(value) for name, value in found.items() if not isinstance(value, str)}
        words = {name: value for name, value in found.items() if isinstance(value, str)}
        rows.append(Row(epoch.round, epoch.ended_unix_seconds, numbers, words))
    return TrackedRun(
        id=hashlib.sha256(content.encode()).hexdigest()[:16],
        name=record.config.name,
        config=dict(_flat("", record.config.model_dump(mode="json"))),
        rows=rows,
        results=_results(record),
        verdict=record.decision.reason,
        report=report,
    )


def _results(record: RunRecord) -> dict[str, float]:
    """What base and trained policy reach on the test problems, and at what cost."""
    base, trained, decision = record.base, record.trained, record.decision
    gain = decision.solved_difference
    return {
        "test/base_solved": base.solved.mean,
        "test/trained_solved": trained.solved.mean,
        "test/gain": gain.mean,
        "test/gain_low": gain.low,
        "test/gain_high": gain.high,
        "test/base_reward": base.reward.mean,
        "test/trained_reward": trained.reward.mean,
        "test/round": float(trained.round),
        "test/promoted": float(decision.promoted),
        "time/total_s": sum(record.stage_seconds().values()),
        **{f"guard/{guard.name}": guard.difference.mean for guard in decision.guards},
    }


def _flat(place: str, value: object) -> Iterator[tuple[str, str | int | float | bool | None]]:
    """Yields the values of nested mappings by their dotted path; what lists hold is JSON."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(f"{place}.{name}" if place else name, item)
    elif value is None or isinstance(value, str | int | float):
        yield place, value
    else:
        yield place, json.dumps(value)
