"""Errors can be caught by kind and cross process borders."""

import copy
import pickle

import pytest

from tasks.gdsd import errors
from tasks.gdsd.errors import GdsdError

STANDARD: dict[str, type[Exception]] = {
    "GdsdError": Exception,
    "ConfigError": ValueError,
    "DataError": ValueError,
    "QualityError": ValueError,
    "CheckpointError": ValueError,
    "NonFiniteError": ArithmeticError,
    "SandboxError": RuntimeError,
    "RegistryError": RuntimeError,
    "StaleError": RuntimeError,
    "PublishError": RuntimeError,
    "UnreachableError": RuntimeError,
}
ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GdsdError)]


def test_every_error_is_listed_here() -> None:
    """If it fails, a new error has no documented standard base; add it above."""
    assert {kind.__name__ for kind in ALL} == set(STANDARD)


@pytest.mark.parametrize("kind", ALL)
def test_errors_are_caught_by_either_base(kind: type[GdsdError]) -> None:
    """If it fails, a caller who catches by kind, or everything of this project, misses an error."""
    for base in (GdsdError, STANDARD[kind.__name__]):
        with pytest.raises(base, match="what, 3, why"):
            raise kind("what, 3, why")


@pytest.mark.parametrize("kind", ALL)
def test_errors_survive_pickling(kind: type[GdsdError]) -> None:
    """If it fails, an error of a task arrives at its caller as another one, without its message."""
    error = kind("what, 3, why\n  second line")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is kind and copied.args == error.args and str(copied) == str(error)
