"""Every error the project raises on purpose.

All share one base, for callers who want "anything that GDSD refused". Each has a standard error beside it, for callers
who catch by kind.
"""


class GdsdError(Exception):
    """Base of all errors raised on purpose by this project."""


class PassingError(Exception):
    """Says of an error, beside its other base, that it may go away by itself: another attempt may succeed."""


class Interrupted(SystemExit):
    """A signal ends this process: whoever takes SystemExit for the `exit()` of a user's own code lets this one pass."""


class ConfigError(GdsdError, ValueError):
    """A configuration was refused: the message has the dotted path, the value, what is allowed and the nearest name."""


class RepeatedKeyError(ConfigError):
    """A mapping of a configuration or data file has a key twice: the message has the key and both values."""

    key: str | None = None


class DataError(GdsdError, ValueError):
    """A table, prompt file or data folder does not have the declared schema or content."""


class QualityError(DataError):
    """A critical Great Expectations suite failed: the message has the expectation, the count and the first rows."""


class CheckpointError(GdsdError, ValueError):
    """A checkpoint folder is missing, incomplete, or does not match what it claims to be."""


class NonFiniteError(GdsdError, ArithmeticError):
    """Several updates in a row had a non-finite loss or gradient, after the evidence was saved; or logits are not."""


class StorageError(GdsdError, RuntimeError):
    """A folder of this machine cannot be used for a run's data or cache: the message has which one and what to do."""


class SandboxError(GdsdError, RuntimeError):
    """This system lacks what confines untrusted programs: the message has what is missing and what can be done."""


class ServiceError(GdsdError, RuntimeError):
    """A service that scores answers refuses, or sends what is no score: the message has what and what can be done."""


class SilentServiceError(ServiceError, PassingError):
    """A service that scores answers does not answer, or has a fault of its own; later it may work."""


class RegistryError(GdsdError, RuntimeError):
    """A registry of policies cannot be used, or lacks or refuses what was asked: the message has what can be done."""


class StaleError(RegistryError):
    """A policy was compared with a champion that is not the champion any more, so it was not promoted."""

    REMEDY = "Start a run with another kickoff time"  # words by which the message is known where only that is left


class PublishError(GdsdError, RuntimeError):
    """A tracker or the hub refuses a finished run: the message has which one and what can be done."""


class UnreachableError(PublishError, PassingError):
    """A tracker or the hub does not answer, or has a fault of its own; later it may work."""
