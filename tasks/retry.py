"""Which failures of a task are worth another attempt: Flyte retries only what a task calls recoverable.

An error that may go away by itself (see `tasks.gdsd.passing`) becomes flytekit's `FlyteRecoverableException`, up to
the task's `retries`. Errors of the project and mistakes in the code would come again and fail at once. That inputs or
outputs cannot be fetched or stored is recoverable by flytekit itself, and so is a process that dies.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flytekit.exceptions.base import FlyteRecoverableException

from tasks.gdsd import passing
from tasks.local import in_pod

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


def retried(work: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """Lets Flyte try a task again after an error that may go away by itself; a local run, which tries once, shows it.

    Raises:
        FlyteRecoverableException: on a cluster, with such an error as its cause.
    """

    @wraps(work)
    def attempt(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            if not in_pod() or isinstance(error, FlyteRecoverableException) or not passing.may_pass(error):
                raise
            raise FlyteRecoverableException(
                f"{type(error).__name__}: {error} (this may go away by itself, so the task is worth another attempt)"
            ) from error

    return attempt
