"""The update loop: what a step does, what is left out, and that nothing but the configuration decides."""

import copy
import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tasks.gdsd import tables
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint, lora
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import loop
from tasks.gdsd.distill.batch import collate
from tasks.gdsd.errors import DataError
from tests.gdsd.epochs import (
    ADVANTAGES,
    GROUP,
    LENGTH,
    SIGNAL,
    apart,
    configured,
    ended,
    mean_scores,
    rewarded,
    run,
    same,
    weights,
)

# What a step does


@pytest.mark.parametrize("baseline", ["zero", "group"])
def test_the_first_step_by_hand(start: PolicyState, table: pa.Table, baseline: str) -> None:
    """If it fails, the old scores are not those of the policy that made the rollouts, or the mean is over other terms.

    In the first step theta = old, so a residual is -psi A, less its group's mean -psi mean(A) with the baseline
    `group`, for every pair. The mean is over pairs and the 11 judged completions of the 3 groups with a signal.
    """
    groups = [[value for value in ADVANTAGES[index] if value is not None] for index in SIGNAL]
    centre = [math.fsum(group) / len(group) if baseline == "group" else 0.0 for group in groups]
    residuals = [0.5 * (value - mean) for group, mean in zip(groups, centre, strict=True) for value in group]
    _, stats = run(start, table, configured({"baseline": baseline}))
    first = stats.steps[0]
    assert first.loss == pytest.approx(sum(value**2 for value in residuals) / 11, rel=1e-5)
    assert first.residual_abs == pytest.approx(sum(map(abs, residuals)) / 11, rel=1e-5)
    assert first.shift_abs == 0
    assert stats.sequences == 12 and len(stats.steps) == 3 and not any(step.skipped for step in stats.steps)


def test_surprise_at_own_tokens_is_measured_before_an_update(start: PolicyState, table: pa.Table) -> None:
    """If it fails, a policy that has collapsed does not look surer than it was.

    A score is the mean log-probability of a completion's tokens, each hidden once in a pair of views, so the mean over
    the 11 judged completions is the negative of the metric.
    """
    config = configured({})
    first = run(start, table, config)[1].steps[0]
    judged = torch.tensor([value is not None for index in SIGNAL for value in ADVANTAGES[index]])
    assert first.nll == pytest.approx(-float(mean_scores(start, table, config)[judged].mean()), rel=1e-5)
    assert run(start, table, configured({"readout": "centred"}))[1].steps[0].nll is None


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_steps_move_the_scores_towards_the_target(start: PolicyState, table: pa.Table, readout: str) -> None:
    """If it fails, training does nothing, or makes good answers less likely."""
    config = configured({"readout": readout}, inner_steps=20)
    trained, stats = run(start, table, config)
    last = stats.steps[-1]
    assert last.residual_abs is not None and stats.steps[0].residual_abs is not None
    assert last.residual_abs < 0.5 * stats.steps[0].residual_abs
    shift = mean_scores(trained, table, config) - mean_scores(start, table, config)
    wanted = torch.tensor([value or 0.0 for index in SIGNAL for value in ADVANTAGES[index]])
    clear = wanted.abs() > 0.25
    assert torch.equal(shift[clear].sign(), wanted[clear].sign()), f"moved by {shift} for advantages {wanted}"


@pytest.mark.parametrize("after_end", ["counted", "ignored"])
def test_scores_are_per_token_that_counts(start: PolicyState, table: pa.Table, after_end: str) -> None:
    """If it fails, answers that end early are trained less than others, or what follows their end counts.

    In step 2 theta is the policy that an epoch of one step leaves. Its shift is the mean over the 11 judged completions
    of the change of their scores, each a mean over the tokens that count, of 1 to all 8 of them.
    """
    ends = ended(table, start.denoiser.end_id)
    config = configured({"after_end": after_end, "mask_pairs": 1}, inner_steps=2)
    after_one, _ = run(start, ends, config.model_copy(update={"inner_steps": 1}))
    _, stats = run(start, ends, config)
    shift = (mean_scores(after_one, ends, config) - mean_scores(start, ends, config)).abs()
    judged = torch.tensor([value is not None for index in SIGNAL for value in ADVANTAGES[index]])
    assert stats.steps[1].shift_abs == pytest.approx(shift[judged].mean().item(), rel=1e-4)


def test_the_record_says_what_happened(start: PolicyState, table: pa.Table) -> None:
    """If it fails, a policy does not know how it came about, and a continued run counts wrongly."""
    trained, stats = run(start, table, round_index=4)
    assert (trained.record.round, trained.record.updates, trained.record.skipped_in_a_row) == (5, 3, 0)
    assert trained.record.parent == "parent of round 5" and trained.record.family == "tiny"
    assert stats.round == 5
    assert set(trained.optimizer) == {
        f"{name}.{slot}" for name, _ in start.denoiser.named_parameters() for slot in ("exp_avg", "exp_avg_sq", "step")
    }


def test_the_learning_rate_rises_over_updates_across_epochs(start: PolicyState, table: pa.Table) -> None:
    """If it fails, warm-up starts again in every round, or never ends.

    Update n, counted from 0, has lr * min(1, (n + 1) / (warmup + 1)).
    """
    config = configured(warmup_steps=4, learning_rate=1e-3)
    middle, first = run(start, table, config)
    _, second = run(middle, table, config, round_index=1)
    rates = [step.learning_rate for step in first.steps + second.steps]
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3])


def test_equal_epochs_are_equal(start: PolicyState, table: pa.Table) -> None:
    """If it fails, a rerun gives another policy, and a cached result is not what computing it anew would give."""
    torch.manual_seed(1)
    first, _ = run(start, table)
    torch.manual_seed(2)
    assert same(first, run(start, table)[0])
    assert not torch.equal(weights(first), weights(run(start, table, round_index=1)[0])), "masks change by round"


# What is left out


def test_groups_without_a_signal_are_left_out(start: PolicyState, denoiser: Denoiser) -> None:
    """If it fails, groups that carry no signal hold the policy where it is, or change the masks of the others."""
    everything, stats = run(start, rewarded(denoiser))
    signal, _ = run(start, rewarded(denoiser, SIGNAL))
    assert same(everything, signal)
    assert stats.sequences == len(SIGNAL) * GROUP


def test_nothing_to_learn_changes_nothing(start: PolicyState, denoiser: Denoiser) -> None:
    """If it fails, a round of equal answers stops the run, or its decayed weights and moments drift."""
    before, _ = run(start, rewarded(denoiser))
    after, stats = run(before, rewarded(denoiser, [3, 4]), configured(weight_decay=0.5), round_index=1)
    assert torch.equal(weights(before), weights(after))
    assert all(torch.equal(before.optimizer[name], after.optimizer[name]) for name in before.optimizer)
    assert stats.steps == [] and stats.sequences == 0
    assert (after.record.round, after.record.updates) == (2, 3)
    untouched, _ = run(start, rewarded(denoiser, [3, 4]))
    assert untouched.optimizer == {} and torch.equal(weights(untouched), weights(start))


@pytest.mark.parametrize("share", [True, False])
def test_trajectory_masks_come_from_the_rows(denoiser: Denoiser, table: pa.Table, share: bool) -> None:
    """If it fails, a completion is scored in states of another one's trajectory.

    With one token per step, the state before step s hides LENGTH - s tokens: those with unmasked_at >= s. Shared masks
    take one step per group.
    """
    config = configured({"mask_source": "trajectory", "share_masks": share, "mask_pairs": 8})
    batch = collate(table, denoiser, config.objective, group_size=GROUP, round_index=0, seed=7)
    assert batch is not None
    rows = [row for row in table.to_pylist() if int(row["prompt_id"].split("-")[1]) in SIGNAL]
    unmasked_at = torch.tensor([row["unmasked_at"] for row in rows])
    masks, complements = batch.views.hidden.view(8, 2, -1, LENGTH).unbind(1)  # (K, B, L) each
    steps = LENGTH - masks.sum(2)  # (K, B)
    assert torch.equal(masks, unmasked_at >= steps[:, :, None]) and torch.equal(complements, ~masks)
    groups = steps.view(8, len(SIGNAL), GROUP)
    assert bool((groups == groups[:, :, :1]).all()) is share


def test_states_come_from_the_rows(denoiser: Denoiser, table: pa.Table) -> None:
    """If it fails, states of a path are drawn without what the sampler wrote down, or by what is not finite.

    Where only the last of 8 steps was unsure its chance is 0.9 + 0.1 / 8, which is 10.95 of 12 completions.
    """
    rows = table.to_pylist()
    for row in rows:
        row["uncertainty"] = [float(step == LENGTH - 1) for step in row["unmasked_at"]]
    config = configured({"mask_source": "path", "path_states": 1, "mask_pairs": 1, "share_masks": False})
    given = {"group_size": GROUP, "round_index": 0, "seed": 7}
    batch = collate(pa.Table.from_pylist(rows, table.schema), denoiser, config.objective, **given)
    assert batch is not None
    assert 10 <= int((batch.views.hidden.sum(2) == 1).sum()) <= 12, "the last state hides one token"
    rows[0]["uncertainty"][0] = math.inf
    with pytest.raises(ValueError, match="must be finite"):
        collate(pa.Table.from_pylist(rows, table.schema), denoiser, config.objective, **given)


def test_completions_of_several_lengths_are_refused(start: PolicyState, denoiser: Denoiser) -> None:
    """If it fails, rollouts of two configurations are mixed and end in an error about tensors."""
    rows = rewarded(denoiser).to_pylist()
    rows[1]["completion_ids"] = rows[1]["completion_ids"][:-2]
    with pytest.raises(DataError, match=r"these occur: \[6, 8\]"):
        run(start, pa.Table.from_pylist(rows, tables.REWARDED))


# Continuing


@pytest.mark.parametrize("ema_decay", [0.0, 0.7])
def test_a_continued_run_is_the_uninterrupted_one(
    start: PolicyState, table: pa.Table, tmp_path: Path, ema_decay: float
) -> None:
    """If it fails, a run that was stopped and resumed ends with another policy."""
    config = configured(warmup_steps=4, ema_decay=ema_decay)
    middle, _ = run(start, table, config)
    uninterrupted, expected = run(middle, table, config, round_index=1)
    loaded = checkpoint.load(checkpoint.save(tmp_path / "policy", middle), torch.device("cpu"))
    resumed, stats = run(loaded, table, config, round_index=1)
    assert same(resumed, uninterrupted)
    assert stats.steps == expected.steps
    forgetful, _ = run(PolicyState(middle.denoiser, middle.record, {}), table, config, round_index=1)
    assert not torch.equal(weights(forgetful), weights(resumed)), "the moments matter, so the test means something"


def test_the_policy_is_an_average_of_what_is_trained(start: PolicyState, table: pa.Table) -> None:
    """If it fails, the average is of other weights, or the student regresses to itself and not to the policy.

    In the first round the student starts as the policy, so it ends where a run without an average ends. The policy is
    then 0.7 of the old one and 0.3 of the student. In the next round the student is read in the first update, and its
    shift is what it differs by from the policy, which made the completions.
    """
    plain, expected = run(start, table, configured({"mask_pairs": 1}))
    config = configured({"mask_pairs": 1}, ema_decay=0.7)
    policy, stats = run(start, table, config)
    assert stats.steps == expected.steps
    student = copy.deepcopy(policy.denoiser)
    for name, parameter in student.trainable():
        parameter.data = policy.optimizer[f"{name}.student"]
    trained = PolicyState(student, policy.record, {})
    assert torch.equal(weights(trained), weights(plain))
    torch.testing.assert_close(weights(policy), 0.7 * weights(start) + 0.3 * weights(plain))
    _, stats = run(policy, table, config)
    judged = torch.tensor([value is not None for group in SIGNAL for value in ADVANTAGES[group]])
    ahead = (mean_scores(trained, table, config) - mean_scores(policy, table, config)).abs()[judged].mean()
    assert stats.steps[0].shift_abs == pytest.approx(float(ahead), rel=1e-4) and ahead > 1e-3
    surprise = -mean_scores(policy, table, config)[judged].mean()
    assert stats.steps[0].nll == pytest.approx(float(surprise), rel=1e-4), "the policy's, whose tokens they are"


# The base policy


def test_the_reference_is_the_base_policy(start: PolicyState, other_denoiser: Denoiser, table: pa.Table) -> None:
    """If it fails, `reference_weight` pulls towards another policy than the base, or not at all.

    With the starting policy itself as base, ref = old, so (1 - beta) old + beta ref = old and nothing changes but
    rounding. With another base, scores end nearer to that base's than without the pull.
    """
    free, _ = run(start, table)
    own, _ = run(start, table, configured({"reference_weight": 0.5}), start)
    assert apart(free, own, start) < 2e-3
    base = checkpoint.base_state(other_denoiser)
    config = configured({"reference_weight": 0.5}, inner_steps=10)
    pulled, _ = run(start, table, config, base)
    free, _ = run(start, table, configured(inner_steps=10))
    wanted = mean_scores(base, table, config)
    distances = [(mean_scores(state, table, config) - wanted).abs().mean() for state in (pulled, free)]
    assert distances[0] < distances[1]


def test_the_base_is_only_read(start: PolicyState, other_denoiser: Denoiser, table: pa.Table) -> None:
    """If it fails, the base moves, and the pull towards it with it."""
    base = checkpoint.base_state(other_denoiser)
    before = weights(base).clone()
    run(start, table, configured({"reference_weight": 0.5}), base)
    assert torch.equal(weights(base), before)
    assert all(parameter.grad is None for parameter in base.denoiser.parameters())


def test_without_reference_weight_the_base_has_no_say(
    start: PolicyState, other_denoiser: Denoiser, table: pa.Table
) -> None:
    """If it fails, a run pays for scoring a base policy that it does not use, or is changed by it."""
    assert same(run(start, table)[0], run(start, table, base=checkpoint.base_state(other_denoiser))[0])


def test_a_missing_base_is_refused(start: PolicyState, table: pa.Table) -> None:
    """If it fails, a run that asks for a pull towards its base trains silently without one."""
    with pytest.raises(ValueError, match="no adapter and no base was given"):
        run(start, table, configured({"reference_weight": 0.5}))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    """If it fails, the first updates overshoot, or the last ones never settle.

    With a rise of 3, a fall from 100 on and a rate of 1: 1/4, 2/4, 3/4, 1, ..., 1; at 400 updates sqrt(100/400) = 1/2.
    """
    config = DistillConfig(learning_rate=1.0, warmup_steps=3, decay_after=100)
    assert [loop.learning_rate(config, updates) for updates in (0, 1, 2, 3, 99, 100)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert loop.learning_rate(config, 400) == 0.5


def test_an_adapter_switched_off_is_the_base(denoiser: Denoiser, table: pa.Table) -> None:
    """If it fails, a policy with an adapter is pulled towards another policy than its base, or towards itself.

    After an epoch the adapter counts. From then on, the reference read with the adapter off must equal one read from a
    second copy of the base, for a pull in both forms, bit for bit; without the pull the policy must be another.
    """
    plain = checkpoint.base_state(copy.deepcopy(denoiser))
    denoiser.attach_adapter(AdapterConfig(rank=4, alpha=8, targets=["q_proj", "down_proj"]), seed=0)
    adapted, _ = run(checkpoint.base_state(denoiser), table, configured(inner_steps=5, learning_rate=1e-2))
    free, _ = run(adapted, table, round_index=1)
    for form, readout in (("optimum", "log_prob"), ("penalty", "log_prob"), ("penalty", "centred")):
        config = configured({"reference_weight": 0.5, "form": form, "readout": readout})
        inside, stats = run(adapted, table, config, round_index=1)
        outside, expected = run(adapted, table, config, plain, round_index=1)
        assert same(inside, outside) and stats.steps == expected.steps
        assert apart(inside, free, adapted) > 1e-2
    held, base = (lora.base_weights(state.denoiser.network) for state in (adapted, plain))
    assert all(torch.equal(held[name], tensor) for name, tensor in base.items()), "the base is frozen"
