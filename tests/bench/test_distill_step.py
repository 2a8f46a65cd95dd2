"""A distillation step against the dense step, at the size of LLaDA's vocabulary: time and peak memory.

make bench            or            python -m pytest -m slow -s tests/bench/test_distill_step.py

The model and sizes of test_engines.py: 6 completions of 256 tokens after 200 of prompt, in a pair of views, an adapter
of rank 16, float32 on all cores, in micro-batches of two completions. The dense step is what published code commonly
does: the old policy's scores and the new one's are taken from the logits of every token of prompt and completion, in
two forward passes. Both make one update of GDSD with the readout `log_prob`, or with `centred`, which the dense step
computes as a mean over all logits.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.distill import loop
from tasks.gdsd.distill.batch import collate
from tasks.gdsd.objectives import Scores, objective_loss
from tests.bench.resident import peak_mib
from tests.bench.test_engines import LARGE, TINY_SIZE, Size
from tests.bench.test_plan import round_of

TURNS = 2
READOUTS = ("log_prob", "centred")


class Step:
    """A policy with an adapter, a rewarded group, and the two ways to take an update on it."""

    def __init__(self, size: Size, readout: str):
        self.denoiser = size.build()
        self.denoiser.attach_adapter(AdapterConfig(rank=16), seed=0)
        objective = GdsdConfig.model_validate({"readout": readout, "mask_source": "random", "trust_region": None})
        compute = ComputeConfig(micro_batch_tokens=4 * (size.prompt + size.length))
        self.config = DistillConfig(objective=objective, inner_steps=1, compute=compute)
        self.objective, self.group = objective, size.batch
        self.rewarded = round_of(self.denoiser.encode("abcdefgh"), 1, size.batch, size.prompt, size.length)

    def ours(self) -> None:
        state = checkpoint.base_state(self.denoiser)
        loop.distill(
            state,
            None,
            self.rewarded,
            self.config,
            round_index=0,
            group_size=self.group,
            seed=0,
            parent="0" * 64,
            evidence=Path("evidence"),
        )

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
                hidden=batch.views.hidden,
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


def apart(readout: str, measurement: str) -> dict[str, float]:
    """Takes one measurement in a new process; see the end of this file."""
    command = [sys.executable, "-m", "tests.bench.test_distill_step", readout, measurement]
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {name: float(value) for name, value in json.loads(found.splitlines()[-1]).items()}


@pytest.mark.slow
@pytest.mark.parametrize("readout", READOUTS)
def test_a_distillation_step_costs_a_fraction_of_the_dense_one(readout: str) -> None:
    """If it fails, training holds the logits of whole canvases again, or reads the old policy twice."""
    times = apart(readout, "times")
    ours, dense = (apart(readout, f"peak {name}")["mib"] for name in ("ours", "dense"))
    print(f"\n{readout}, {LARGE}, float32, {torch.get_num_threads()} threads")
    print("| | ours | dense | ratio |\n|---|---|---|---|")
    print(f"| seconds | {times['ours']:.2f} | {times['dense']:.2f} | {times['dense'] / times['ours']:.2f} |")
    print(f"| peak MiB above the weights | {ours:.0f} | {dense:.0f} | {dense / ours:.2f} |")
    print(json.dumps({"readout": readout, **times, "ours_mib": ours, "dense_mib": dense}))
    assert times["dense"] >= 2 * times["ours"] and dense >= 4 * ours


if __name__ == "__main__":
    readout, measurement = sys.argv[1:]
    small, step = Step(TINY_SIZE, readout), Step(LARGE, readout)
    if measurement == "times":
        small.ours(), small.dense()  # the libraries come up
        times: dict[str, list[float]] = {"ours": [], "dense": []}
        for _ in range(TURNS):
            for name in times:
                began = time.perf_counter()
                getattr(step, name)()
                times[name].append(time.perf_counter() - began)
        print(json.dumps({name: statistics.median(several) for name, several in times.items()}))
    else:
        name = measurement.removeprefix("peak ")
        works: tuple[Callable[[], None], Callable[[], None]] = (getattr(small, name), getattr(step, name))
        print(json.dumps({"mib": peak_mib(*works)}))
