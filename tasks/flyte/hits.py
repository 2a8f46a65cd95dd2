"""What a local run takes from the cache: it is said in one line, before the run computes what was missing, or ends."""

import logging
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from flytekit.models.literals import LiteralMap

logger = logging.getLogger(__name__)

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")

# A task: what is taken, where its result is. What is quickly made, or only sums up, is not named.
TAKEN = {
    "prepare_prompts": "prompts",
    "prepare_test": "prompts",
    "prepare_guard": "prompts",
    "prepare_policy": "policy",
    "take_policy": "policy",
    "generate_rollouts": "rollouts",
    "distill_epoch": "round",
    "train_rounds": "round",
    "answer_problems": "answers",
    "verify_answers": "evaluation",
}
ON_THE_WAY = {"round": "rollouts", "evaluation": "answers"}  # what is not named where all of it is taken
MAPPED = re.compile("map_(.*)_[0-9a-f]+-arraynode")  # flytekit's name of a task that is done for several shards

ROUNDS = ("round", "first", "end")  # inputs that say which they are, counted from 0

_taken: dict[str, list[int]] = {}  # in the order in which it was taken: the rounds of each, counted from 1, or zeros


def take(name: str, inputs: LiteralMap) -> None:
    """Notes that the result of a task is taken from the cache.

    Args:
        name: of the task, with its module.
    """
    what = TAKEN.get(MAPPED.sub(r"\1", name.rpartition(".")[2]))
    if what is not None:
        _taken.pop(ON_THE_WAY.get(what, ""), None)
        _taken.setdefault(what, []).extend(_rounds(inputs) if what in ("rollouts", "round") else [0])


def _rounds(inputs: LiteralMap) -> list[int]:
    """Returns the rounds of a task that makes one, or some in a row."""
    numbers = {name: literal.scalar.primitive.integer for name, literal in inputs.literals.items() if name in ROUNDS}
    first = numbers.get("round", numbers.get("first", 0))
    return list(range(first + 1, numbers.get("end", first + 1) + 1))


def told(work: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """Lets a task say first what was taken from the cache before it."""

    @wraps(work)
    def tell(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        if _taken:
            logger.info("from the cache: %s", ", ".join(_words(what, numbers) for what, numbers in _taken.items()))
            _taken.clear()
        return work(*args, **kwargs)

    return tell


def _words(what: str, numbers: list[int]) -> str:
    if what == "rollouts":
        return f"rollouts of round {numbers[-1]}"
    if what not in ("round", "evaluation"):
        return what
    if len(numbers) == 1:
        return f"{what} {numbers[0]}" if what == "round" else f"1 {what}"
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{what}s {numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} {what}s"  # also rounds, if they are of the many runs of a comparison
