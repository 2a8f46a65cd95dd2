"""A distillation step against the dense step, at the size of LLaDA's vocabulary: time and peak memory.

make bench            or            python -m pytest -m slow -s tests/bench/test_distill_step.py

The model and sizes of test_engines.py: 6 completions of 256 tokens after 200 of prompt, in a pair of views, an adapter
of rank 16, float32 on all cores, in micro-batches of two completions. The dense step is what published code commonly
does: the old policy's scores and the new one's are taken from the logits of every token of prompt and completion, in
two forward passes. Both make one update of GDSD with the readout `log_prob`, or with `centred`, which the dense step
computes as a mean over all logits.
"""

import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.distill.batch import collate
from tasks.gdsd.objectives import Scores, objective_loss
from tests.bench.harness import apart, in_turns, peak_mib, show
from tests.bench.models import round_of, train
from tests.bench.test_engines import LARGE, TINY_SIZE, Size

TURNS = 2
READOUTS = ("log_prob", "centred")


class Step:
    """A policy with an adapter, a rewarded group, and the two ways to take an update on it."""

    def __init__(self, size: Size, readout: str):
        self.denoiser = size.build()
        self.denoiser.attach_adapter(AdapterConfig(rank=16), seed=0)
        objective = GdsdConfig.model_validate(
            {"readout": readout, "mask_source": "random", "reference_weight": 0, "trust_region": None}
        )
        compute = ComputeConfig(micro_batch_tokens=4 * (size.prompt + size.length))
        self.config = DistillConfig(objective=objective, inner_steps=1, compute=compute, ema_decay=0)
        self.objective, self.group = objective, size.batch
        self.rewarded = round_of(self.denoiser.encode("abcdefgh"), 1, size.batch, size.prompt, size.length)

    def works(self) -> dict[str, Callable[[], None]]:
        return {"ours": self.ours, "dense": self.dense}

    def ours(self) -> None:
        train(self.denoiser, self.rewarded, self.config, self.group)

    def dense(self) -> None:
        batch = collate(self.rewarded, self.denoiser, self.objective, group_size=self.group, round_index=0, seed=0)
        assert batch is not None
        hidden = batch.views.hidden.flatten(0, 1)  # (C * B, L)
        tokens = batch.completions.repeat(len(batch.views.hidden), 1)
        prompts = batch.prompts.repeat(len(batch.views.hidden), 1)
        ids = torch.cat([prompts, tokens.masked_fill(hidden, self.denoiser.mask_id)], dim=1)

        def scores() -> Tensor:  # (C, B, L)
            logits = self.denoiser.network(input_ids=ids).logits[:, prompts.shape[1] :]  # of all tokens, then cut
            own = logits.gather(-1, tokens[..., None]).squeeze(-1)
            centre = logits.logsumexp(-1) if self.objective.readout == "log_prob" else logits.mean(-1)
            return ((own - centre) * hidden).view_as(batch.views.hidden)

        with torch.no_grad():
            old = scores()
        parameters = [parameter for _, parameter in self.denoiser.trainable()]
        optimizer = torch.optim.AdamW(parameters, 1e-6)
        loss, _ = objective_loss(
            Scores(
                theta=scores(),
                old=old,
                ref=None,
                theta_log_prob=None,
                ref_log_prob=None,
                read=batch.views.read,
                lengths=batch.views.counted.sum(1),
                judged=batch.judged,
                group_size=1,
            ),
            batch.advantages,
            self.objective,
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def seconds(readout: str) -> dict[str, float]:
    for work in Step(TINY_SIZE, readout).works().values():  # the libraries come up
        work()
    taken = in_turns(Step(LARGE, readout).works(), TURNS, warm_up=False)
    return {name: statistics.median(several) for name, several in taken.items()}


def peak(readout: str, name: str) -> float:
    return peak_mib(*(Step(size, readout).works()[name] for size in (TINY_SIZE, LARGE)))


@pytest.mark.slow
@pytest.mark.parametrize("readout", READOUTS)
def test_a_distillation_step_costs_a_fraction_of_the_dense_one(readout: str) -> None:
    """If it fails, training holds the logits of whole canvases again, or reads the old policy twice."""
    rows = {
        "seconds": apart(seconds, readout),
        "peak MiB above the weights": {name: apart(peak, readout, name) for name in ("ours", "dense")},
    }
    for row in rows.values():
        row["ratio"] = row["dense"] / row["ours"]
    show(f"{readout}, {LARGE}, float32, {torch.get_num_threads()} threads", rows)
    assert rows["seconds"]["ratio"] >= 2 and rows["peak MiB above the weights"]["ratio"] >= 4
