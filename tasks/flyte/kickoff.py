"""The time that a run was due: in UTC, to the second. A night is known by it, and its seeds follow from it."""

from datetime import UTC, datetime


def due(kickoff_time: datetime) -> datetime:
    """Returns the time of a run; one without a time zone is taken to be in UTC, as Flyte does."""
    moment = kickoff_time.replace(microsecond=0)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def as_option(kickoff_time: datetime) -> str:
    """Writes the time of a run as `--kickoff_time` takes it, which refuses a time with an offset."""
    return f"{due(kickoff_time):%Y-%m-%dT%H:%M:%S}"
