"""What the readout `centred_topk` is centred on in the update loop: the tokens that the old policy ranks highest."""

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.batch import Batch, collate
from tasks.gdsd.errors import ConfigError
from tests.gdsd.epochs import GROUP, LENGTH, apart, configured, run

TOP_K = 3


def with_top(objective: dict[str, object] | None = None, **loop: object) -> DistillConfig:
    return configured({"readout": "centred_topk", "top_k": TOP_K, **(objective or {})}, **loop)


def batch_of(table: pa.Table, state: PolicyState, config: DistillConfig) -> Batch:
    batch = collate(table, state.denoiser, config.objective, group_size=GROUP, round_index=0, seed=7)
    assert batch is not None
    return batch


@torch.no_grad()
def dense_logits(state: PolicyState, batch: Batch) -> Tensor:  # (C, B, L, V)
    """All logits in all views, one view after another."""
    denoiser, found = state.denoiser, []
    for hidden in batch.views.hidden:
        ids = torch.cat([batch.prompts, batch.completions.masked_fill(hidden, denoiser.mask_id)], dim=1)
        attend = torch.cat([batch.attention, torch.ones_like(hidden)], dim=1)
        found.append(denoiser(ids, attend)[:, -LENGTH:] @ denoiser.network.lm_head.weight.T)
    return torch.stack(found)


def dense_scores(logits: Tensor, candidates: Tensor, batch: Batch) -> Tensor:  # (C, B, L, V), (C, B, L, k) -> (K, B)
    tokens = batch.completions.expand(len(logits), -1, -1)[..., None]
    centred = logits.gather(3, tokens)[..., 0] - logits.gather(3, candidates).mean(3)
    return (centred * batch.views.hidden).unflatten(0, (-1, 2)).sum((1, 3)) / LENGTH


def dense_loss(theta: Tensor, old: Tensor, ref: Tensor, batch: Batch, config: DistillConfig) -> float:
    """The mean over judged completions and pairs of the squared residual, in the form `optimum`."""
    objective = config.objective
    assert isinstance(objective, GdsdConfig)
    weight = objective.reference_weight
    target = (1 - weight) * old + weight * ref + objective.guidance * batch.advantages
    return float((theta - target).square()[:, batch.judged].mean())


def test_candidates_are_the_old_policys_in_every_step_and_for_the_base(
    start: PolicyState, other_denoiser: Denoiser, table: pa.Table
) -> None:
    """If it fails, scores of theta, old and base differ in what they are centred on, and training removes that.

    By dense logits: in step 1 theta = old, and the base is read with the old policy's candidates. In step 2 theta is
    the policy that an epoch of one step leaves, still with the same candidates. Its own would give another loss, and so
    would the base's own: the steps are long enough, and the base is another policy.
    """
    base = checkpoint.base_state(other_denoiser)
    config = with_top({"reference_weight": 0.3}, learning_rate=2e-2, inner_steps=2)
    batch = batch_of(table, start, config)
    _, stats = run(start, table, config, base)
    after_one, _ = run(start, table, config.model_copy(update={"inner_steps": 1}), base)
    states = {"old": start, "theta": after_one, "ref": base}
    logits = {name: dense_logits(state, batch) for name, state in states.items()}
    top = {name: value.topk(TOP_K, dim=3).indices for name, value in logits.items()}
    old, theta, ref = (dense_scores(logits[name], top["old"], batch) for name in ("old", "theta", "ref"))
    assert stats.steps[0].loss == pytest.approx(dense_loss(old, old, ref, batch, config), rel=1e-4)
    assert stats.steps[1].loss == pytest.approx(dense_loss(theta, old, ref, batch, config), rel=1e-4)
    own_theta, own_ref = (dense_scores(logits[name], top[name], batch) for name in ("theta", "ref"))
    assert dense_loss(own_theta, old, ref, batch, config) != pytest.approx(stats.steps[1].loss, rel=1e-2)
    assert dense_loss(old, old, own_ref, batch, config) != pytest.approx(stats.steps[0].loss, rel=1e-2)


def test_all_tokens_as_candidates_are_the_readout_centred(start: PolicyState, table: pa.Table) -> None:
    """If it fails, some tokens are left out of the mean, or counted twice."""
    everything, _ = run(start, table, with_top({"top_k": start.denoiser.vocabulary_size}))
    centred, _ = run(start, table, configured({"readout": "centred"}))
    assert apart(everything, centred, start) < 2e-3


def test_more_candidates_than_tokens_are_refused(start: PolicyState, table: pa.Table) -> None:
    """If it fails, a run ends after its first rollouts in an error about tensors."""
    size = start.denoiser.vocabulary_size
    with pytest.raises(ConfigError, match=rf"distill\.objective\.top_k {size + 1} exceeds the {size} tokens"):
        run(start, table, with_top({"top_k": size + 1}))
