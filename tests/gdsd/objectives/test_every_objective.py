"""What holds for every objective in the update loop: its batches may be cut, and it has no dead switch."""

from typing import get_args

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, GdsdConfig, ObjectiveConfig, SpgConfig, Wd1Config
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.distill import batch
from tests.gdsd.epochs import CONFIG, GROUP, OBJECTIVE, apart, configured, ended, rewarded, run, same


def changed(objective: ObjectiveConfig, options: dict[str, object]) -> ObjectiveConfig:
    """With the checks that a loaded configuration goes through."""
    return type(objective)(**(objective.model_dump() | options))


ESPO, SPG, WD1, DIFFU_GRPO = EspoConfig(mask_pairs=2), SpgConfig(mask_pairs=2), Wd1Config(), DiffuGrpoConfig()
OBJECTIVES: dict[str, ObjectiveConfig] = {
    "gdsd": OBJECTIVE,
    "gdsd group": changed(OBJECTIVE, {"baseline": "group"}),
    "gdsd trajectory": changed(OBJECTIVE, {"mask_source": "trajectory"}),
    "gdsd path": changed(
        OBJECTIVE, {"mask_source": "path", "mask_pairs": 1, "reference_weight": 0.2, "form": "token_penalty"}
    ),
    "gdsd three states": changed(
        OBJECTIVE, {"mask_source": "path", "mask_pairs": 1, "path_states": 3, "share_masks": True}
    ),
    "gdsd centred": changed(OBJECTIVE, {"readout": "centred", "reference_weight": 0.2}),
    "gdsd top 5": changed(OBJECTIVE, {"readout": "centred_topk", "top_k": 5, "reference_weight": 0.2}),
    "gdsd elbo": changed(OBJECTIVE, {"weights": "elbo", "share_masks": False}),
    "gdsd penalty": changed(OBJECTIVE, {"readout": "centred", "reference_weight": 0.2, "form": "penalty"}),
    "gdsd trust region": changed(OBJECTIVE, {"trust_region": 0.05}),
    "gdsd no complement": changed(OBJECTIVE, {"complement": False, "mask_source": "trajectory"}),
    "gdsd ignored": changed(OBJECTIVE, {"after_end": "ignored"}),
    "espo": ESPO,
    "spg": SPG,
    "wd1": WD1,
    "diffu_grpo": DIFFU_GRPO,
}
ALL = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.fixture
def base(other_denoiser: Denoiser) -> PolicyState:
    return checkpoint.base_state(other_denoiser)


@pytest.fixture
def ends(table: pa.Table, denoiser: Denoiser) -> pa.Table:
    """The round with end tokens, so that completions differ in length where what follows is ignored."""
    return ended(table, denoiser.end_id)


def with_objective(objective: ObjectiveConfig, **options: object) -> DistillConfig:
    return CONFIG.model_copy(update={"objective": objective, **options})


@pytest.mark.parametrize(
    "name, size",
    [(name, 8) for name in OBJECTIVES]
    + [(name, size) for name in ("gdsd", "gdsd group", "gdsd trajectory") for size in (1, 4, 5, 12)],
)
def test_micro_batches_change_only_rounding(
    start: PolicyState, base: PolicyState, ends: pa.Table, name: str, size: int
) -> None:
    """If it fails, a smaller GPU trains another policy.

    A completion has up to 25 tokens in 4 views. Micro-batches are whole groups, at least one, so room for 1, 4 and 5
    completions is one group each, for 8 it is two and a remainder.
    """
    whole, expected = run(start, ends, with_objective(OBJECTIVES[name]), base)
    parts, stats = run(
        start, ends, with_objective(OBJECTIVES[name], compute=ComputeConfig(micro_batch_tokens=100 * size)), base
    )
    for step, wanted in zip(stats.steps, expected.steps, strict=True):
        # Without an absolute tolerance a loss of terms of order 0.1 that nearly cancel would have to be exact.
        reported = wanted.model_dump(exclude_none=True)
        assert step.model_dump(exclude_none=True) == pytest.approx(reported, rel=1e-3, abs=1e-5)
    assert apart(whole, parts, start) < 2e-3


@ALL
def test_order_and_padding_change_only_rounding(
    start: PolicyState, base: PolicyState, denoiser: Denoiser, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, the order in which shards finish, or one long prompt in a round, changes the training."""
    rows = ended(rewarded(denoiser, [0, 1, 2]), denoiser.end_id)
    config = with_objective(OBJECTIVES[name])
    expected, _ = run(start, rows, config, base)
    order = [GROUP * group + sample for group in (2, 0, 1) for sample in (3, 1, 0, 2)]
    assert apart(expected, run(start, rows.take(order), config, base)[0], start) < 2e-3

    def wider(prompts: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
        ids, attention = left_pad(prompts, pad_id, device)
        more = torch.zeros(len(prompts), 5, dtype=torch.int64)
        return torch.cat([more + pad_id, ids], dim=1), torch.cat([more.bool(), attention], dim=1)

    monkeypatch.setattr(batch, "left_pad", wider)
    assert apart(expected, run(start, rows, config, base)[0], start) < 2e-3


# What follows the end


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("gdsd group", "gdsd ignored")])
@pytest.mark.parametrize("after_end", ["ignored", "counted"])
def test_what_follows_the_end_counts_only_if_asked_for(
    start: PolicyState, base: PolicyState, ends: pa.Table, denoiser: Denoiser, name: str, after_end: str
) -> None:
    """If it fails, `ignored` tokens train the policy, or `counted` ones do not.

    Tokens after the first end are exchanged for others. Where they are ignored, the trained policy must be the same bit
    for bit; where they count, it must not.
    """
    rows = ends.to_pylist()
    for row in rows:
        ids = row["completion_ids"]
        last = ids.index(denoiser.end_id) if denoiser.end_id in ids else len(ids)
        row["completion_ids"] = ids[: last + 1] + [3 + (token + 1) % 40 for token in ids[last + 1 :]]
    config = with_objective(changed(OBJECTIVES[name], {"after_end": after_end}))
    first, _ = run(start, ends, config, base)
    second, _ = run(start, pa.Table.from_pylist(rows, ends.schema), config, base)
    assert same(first, second) == (after_end == "ignored")


# Every option does something

LOOP = {
    "inner_steps": 4,
    "learning_rate": 2e-3,
    "warmup_steps": 5,
    "decay_after": 1,
    "weight_decay": 0.1,
    "adam_beta1": 0.5,
    "adam_beta2": 0.9,
    "ema_decay": 0.5,
    "max_grad_norm": 0.01,
}
TOP = changed(OBJECTIVE, {"readout": "centred_topk", "top_k": 5})
PULLED = changed(OBJECTIVE, {"reference_weight": 0.2})
PATH = changed(OBJECTIVE, {"mask_source": "path", "mask_pairs": 1})
OPTIONS: list[tuple[ObjectiveConfig, dict[str, object]]] = [
    (OBJECTIVE, {"after_end": "ignored"}),
    (OBJECTIVE, {"mask_pairs": 3}),
    (OBJECTIVE, {"mask_source": "trajectory"}),
    (OBJECTIVE, {"mask_source": "path", "mask_pairs": 1}),
    (PATH, {"path_states": 2}),
    (OBJECTIVE, {"mask_blocks": 2}),
    (OBJECTIVE, {"share_masks": False}),
    (OBJECTIVE, {"complement": False}),
    (OBJECTIVE, {"readout": "centred"}),
    (OBJECTIVE, {"readout": "centred_topk", "top_k": 5}),
    (TOP, {"top_k": 3}),
    (OBJECTIVE, {"weights": "elbo"}),
    (OBJECTIVE, {"guidance": 0.6}),
    (OBJECTIVE, {"reference_weight": 0.2}),
    (PULLED, {"form": "penalty"}),
    (PULLED, {"form": "token_penalty"}),
    (OBJECTIVE, {"baseline": "group"}),
    (OBJECTIVE, {"trust_region": 0.05}),
    (ESPO, {"after_end": "ignored"}),
    (ESPO, {"mask_pairs": 3}),
    (ESPO, {"share_masks": True}),
    (ESPO, {"clip": 0.01}),
    (ESPO, {"kl_weight": 0.02}),
    (SPG, {"after_end": "ignored"}),
    (SPG, {"mask_pairs": 3}),
    (SPG, {"share_masks": True}),
    (SPG, {"eubo_power": 2.0}),
    (SPG, {"mix": 0.6}),
    (WD1, {"after_end": "ignored"}),
    (WD1, {"mask_draws": 2}),
    (WD1, {"prompt_mask_rate": 0.3}),
    (WD1, {"share_masks": True}),
    (WD1, {"guidance": 2.0}),
    (DIFFU_GRPO, {"after_end": "ignored"}),
    (DIFFU_GRPO, {"mask_draws": 2}),
    (DIFFU_GRPO, {"prompt_mask_rate": 0.3}),
    (DIFFU_GRPO, {"share_masks": True}),
    (DIFFU_GRPO, {"clip": 0.1}),
    (DIFFU_GRPO, {"kl_weight": 0.08}),
]


def two_epochs(start: PolicyState, table: pa.Table, config: DistillConfig) -> PolicyState:
    """So that options that act through the optimizer's moments show as well."""
    return run(run(start, table, config)[0], table, config, round_index=1)[0]


@pytest.mark.parametrize("option", LOOP)
def test_every_option_of_the_loop_changes_the_policy(start: PolicyState, ends: pa.Table, option: str) -> None:
    """If it fails, a documented option is a dead switch."""
    reference = two_epochs(start, ends, CONFIG)
    assert apart(reference, two_epochs(start, ends, configured(**{option: LOOP[option]})), start) > 1e-4


@pytest.mark.parametrize(
    "objective, options", OPTIONS, ids=lambda given: given.name if isinstance(given, ObjectiveConfig) else str(given)
)
def test_every_option_of_an_objective_changes_the_policy(
    start: PolicyState, base: PolicyState, ends: pa.Table, objective: ObjectiveConfig, options: dict[str, object]
) -> None:
    """If it fails, a documented option is a dead switch."""
    reference, _ = run(start, ends, with_objective(objective), base)
    other, _ = run(start, ends, with_objective(changed(objective, options)), base)
    assert apart(reference, other, start) > 1e-3


def test_no_option_is_forgotten_above() -> None:
    """If it fails, a new option of the update has no test that it does anything; add it to LOOP or OPTIONS."""
    assert set(DistillConfig.model_fields) == set(LOOP) | {"objective", "compute", "max_skipped"}
    for kind in (GdsdConfig, EspoConfig, SpgConfig, Wd1Config, DiffuGrpoConfig):
        fields = {name for name, field in kind.model_fields.items() if len(get_args(field.annotation)) != 1}
        assert fields == {name for objective, options in OPTIONS if type(objective) is kind for name in options}
