"""Errors can be caught by kind and cross process borders."""

import copy
import pickle

import pytest

from tasks.gdsd import errors
from tasks.gdsd.errors import GdsdError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GdsdError)]
STANDARD = (ValueError, ArithmeticError, RuntimeError)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_keep_their_kind_and_their_words(kind: type[GdsdError]) -> None:
    """If it fails, who catches a standard kind misses an error, or one of a task arrives without its message."""
    assert kind is GdsdError or issubclass(kind, STANDARD)
    error = kind("what, 3, why\n  second line")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is kind and copied.args == error.args and str(copied) == str(error)
