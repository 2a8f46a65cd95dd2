"""What a tracker's library takes from the environment alone."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def variables(given: Mapping[str, str], unless_set: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for as long as a library is used, those it reads when it is imported among them.

    Args:
        unless_set: those that a user may have set otherwise.
    """
    before = dict(os.environ)
    wanted = {**{name: value for name, value in unless_set.items() if name not in before}, **given}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
