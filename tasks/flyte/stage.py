"""How a stage becomes a Flyte task: on a CPU, on a GPU, or as a dynamic task that unrolls others.

What all tasks share is said here once: image, resources, cache, retries. A stage names only what is its own.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import ParamSpec, Protocol, Self, TypeVar, cast

from flytekit import Cache, Secret, dynamic, task

from images import CPU, GPU, IMAGES, Role
from images.nodes import Nodes
from tasks.flyte import registration
from tasks.flyte.hits import told
from tasks.flyte.retry import retried
from tasks.flyte.sources import SourceVersion

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


class Decorator(Protocol):
    """Makes a task of a function; what calls it sees the function's own types."""

    def __call__(self, work: Callable[Inputs, Output], /) -> Callable[Inputs, Output]: ...


class _Promise(Protocol):
    """A result of a task inside a dynamic task, whatever its annotation says."""

    def __rshift__(self, other: Self, /) -> object: ...


def cpu_task(
    *,
    hours: float = 1,
    retries: int = 2,
    cached: bool = True,
    ignored: tuple[str, ...] = (),
    deck: bool = False,
    secret: Secret | None = None,
    environment: Mapping[str, str] | None = None,
) -> Decorator:
    """Makes a function a task on a CPU.

    Args:
        hours: after which Flyte ends an attempt.
        retries: of failures that may go away by themselves.
        cached: whether equal inputs and sources give the earlier result.
        ignored: inputs that are no part of the cache's key.
        deck: whether the task shows a page of its own in Flyte's console.
        secret: that the task may read.
        environment: what its pod must know of the registration.
    """
    return _task(CPU, hours, retries, cached, ignored, deck, secret, None, environment or {})


def gpu_task(
    *,
    hours: float,
    retries: int = 3,
    ignored: tuple[str, ...] = (),
    deck: bool = False,
    nodes: Nodes | None = None,
) -> Decorator:
    """Makes a function a cached task on a GPU, or on several machines with some each.

    Args:
        hours: after which Flyte ends an attempt.
        retries: of failures that may go away by themselves, and of machines that are taken away.
        ignored: inputs that are no part of the cache's key.
        deck: whether the task shows a page of its own in Flyte's console.
        nodes: the machines that share the task; a call in a dynamic task overrides it.
    """
    return _task(GPU, hours, retries, True, ignored, deck, None, nodes, {})


def _task(
    role: Role,
    hours: float,
    retries: int,
    cached: bool,
    ignored: tuple[str, ...],
    deck: bool,
    secret: Secret | None,
    nodes: Nodes | None,
    environment: Mapping[str, str],
) -> Decorator:
    registration.enter(environment)

    def decorate(work: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
        found: Callable[Inputs, Output] = task(
            retried(told(work)),
            task_config=nodes,
            container_image=role.image,
            environment=dict(environment) or None,
            requests=role.requests,
            limits=role.limits,
            cache=Cache(policies=[SourceVersion()], serialize=True, ignored_inputs=ignored) if cached else False,
            retries=retries,
            timeout=timedelta(hours=hours),
            interruptible=True,
            enable_deck=deck or None,
            deck_fields=(),
            secret_requests=None if secret is None else [secret],
        )
        return found

    return decorate


def unroll(environment: Mapping[str, str] = IMAGES) -> Decorator:
    """Makes a function a dynamic task, which adds tasks to a run while the run goes on, and computes nothing itself.

    Args:
        environment: what its pod must know of the registration, since it names the tasks' images and secrets there.
    """
    registration.enter(environment)

    def decorate(work: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
        found: Callable[Inputs, Output] = dynamic(
            retried(work),
            container_image=CPU.image,
            environment=dict(environment),
            requests=CPU.requests,
            limits=CPU.limits,
            cache=False,
            retries=2,
            timeout=timedelta(days=30),
            interruptible=False,
        )
        return found

    return decorate


def in_order(first: object, then: object) -> None:
    """Lets a task that a dynamic task calls wait for another whose results it does not read.

    A local run has the order in which they are called.

    Args:
        first: a result of the task that comes first.
        then: a result of the task that waits for it.
    """
    _ = cast(_Promise, first) >> cast(_Promise, then)
