"""What a run says that it takes from the cache."""

import pytest
from flytekit import FlyteContextManager, PythonFunctionTask
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import LiteralMap

from tasks import distill, evaluate, policy, prompts, resident, rollout
from tasks.flyte import hits

NOTHING = LiteralMap({})
ROLLOUTS, EPOCH = "tasks.rollout.map_generate_rollouts_1f-arraynode", "tasks.distill.distill_epoch"
ANSWERS, VERDICTS = "tasks.evaluate.answer_problems", "tasks.evaluate.verify_answers"


def of_round(index: int) -> LiteralMap:
    """The inputs of a round, counted from 0."""
    context = FlyteContextManager.current_context()
    return LiteralMap({"round": TypeEngine.to_literal(context, index, int, TypeEngine.to_literal_type(int))})


@hits.told
def compute(number: int) -> int:
    """A stage that was missing."""
    return number + 1


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ([("tasks.policy.prepare_policy", None), (EPOCH, 4)], "policy, round 5"),
        ([(EPOCH, index) for index in range(37)], "rounds 1 to 37"),
        ([(EPOCH, index) for index in (0, 1, 0, 1)], "4 rounds"),
        ([(VERDICTS, None)] * 3, "3 evaluations"),
        ([("tasks.prompts.prepare_prompts", None), ("tasks.prompts.prepare_guard", None)], "prompts"),
        (
            [(ROLLOUTS, 2), (EPOCH, 2), (ROLLOUTS, 3), ("tasks.reward.reward_rollouts", None)],
            "round 3, rollouts of round 4",
        ),
        ([(ROLLOUTS, 2), (EPOCH, 2)], "round 3"),
        ([(ANSWERS, None), (ANSWERS, None)], "answers"),
        ([(ANSWERS, None), (ANSWERS, None), (VERDICTS, None)], "1 evaluation"),
        ([(VERDICTS, None), (ANSWERS, None)], "1 evaluation, answers"),
        ([("elsewhere", None)], None),
        ([], None),
    ],
)
def test_a_run_says_once_what_it_takes(
    taken: list[tuple[str, int | None]],
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it fails, nobody knows whether a run goes on or begins anew, or each cached task is a line."""
    lines: list[str] = []
    monkeypatch.setattr(hits.logger, "info", lambda line, *words: lines.append(line % words))
    for name, index in taken:
        hits.take(name, NOTHING if index is None else of_round(index))
    assert compute(1) == 2 and compute(2) == 3
    assert lines == ([] if said is None else [f"from the cache: {said}"])


def test_every_name_is_a_task() -> None:
    """If it fails, a renamed task is taken from the cache without a word."""
    found = {
        name
        for module in (prompts, policy, rollout, distill, resident, evaluate)
        for name, value in vars(module).items()
        if isinstance(value, PythonFunctionTask)
    }
    assert set(hits.TAKEN) <= found
