"""Which failures of a task are worth another attempt: Flyte retries only what a task calls recoverable.

An error that may go away by itself (see `tasks.gdsd.transient`) becomes flytekit's `FlyteRecoverableException`, up to
the task's `retries`, and so does an input that cannot be fetched from its store. Errors of the project and mistakes in
the code would come again, so they fail at once. Flyte itself tries again where outputs cannot be stored or a process
dies.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import rich_click as click
from flytekit.exceptions.base import FlyteRecoverableException as AnyRecoverable
from flytekit.exceptions.user import FlyteRecoverableException

from tasks.flyte.console import seen_by_a_person, speak, speak_in_words
from tasks.flyte.local import in_pod, limit_threads
from tasks.gdsd import transient
from tasks.gdsd.errors import GdsdError

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")

speak_in_words()


def retried(work: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """Lets Flyte try a task again after an error that may go away by itself; a local run, which tries once, shows it.

    Raises:
        ClickException: in a local `pyflyte run`, with the words of an error of the project.
        FlyteRecoverableException: on a cluster, with such an error as its cause.
    """

    @wraps(work)
    def attempt(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        if in_pod():
            speak()  # a pod loads the module of its task alone, and its log is all that is seen of it
            limit_threads()
        try:
            return work(*args, **kwargs)
        except Exception as error:
            if isinstance(error, GdsdError) and not in_pod() and seen_by_a_person():
                # It says all that is to be done; its way through the code would push that off the screen.
                raise click.ClickException(f"{type(error).__name__} in {work.__name__}: {error}") from None
            passes = isinstance(error, AnyRecoverable) or transient.may_pass(error)
            if not in_pod() or isinstance(error, FlyteRecoverableException) or not passes:
                raise
            raise FlyteRecoverableException(
                f"{type(error).__name__}: {error} (this may go away by itself, so the task is worth another attempt)"
            ) from error

    return attempt
