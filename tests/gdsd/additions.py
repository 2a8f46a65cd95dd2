"""Uses what docs/extending.md adds to the code: run by `test_docs.py`, in a copy of the code with those additions.

python -m tests.gdsd.additions FOLDER, in which objective.yaml, family.yaml and engine.yaml are the page's.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from tasks.gdsd import tables
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser import checkpoint, families
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.load import load_source
from tasks.gdsd.distill.batch import collate
from tasks.gdsd.distill.microbatch import smallest
from tasks.gdsd.evaluate import answering
from tasks.gdsd.rollout import engines, shard
from tasks.gdsd.rollout.engines.base import Request
from tests.gdsd.conftest import build
from tests.gdsd.epochs import GROUP, rewarded, run
from tests.gdsd.official import write_dream
from tests.gdsd.readings import readings

CPU = torch.device("cpu")


def load(values: Mapping[str, object]) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps(values))


def objective(values: Mapping[str, dict[str, dict[str, object]]]) -> None:
    """It trains, its first loss is the one that its formula gives, and its option does something."""
    start = checkpoint.base_state(build())
    table, config = rewarded(start.denoiser), load(values).distill
    assert smallest(config.objective, GROUP) == 1
    trained, stats = run(start, table, config)
    batch = collate(table, start.denoiser, config.objective, group_size=GROUP, round_index=0, seed=7)
    assert batch is not None
    read = readings(start.denoiser, batch.prompts, batch.attention, batch.completions, batch.views)  # (2K, B, L)
    means = read.detach().sum((0, 2)) / batch.views.hidden.sum((0, 2))  # every token is hidden once in each pair
    weights = (batch.advantages / values["distill"]["objective"]["temperature"]).exp()
    expected = float(-(weights * means)[batch.judged].mean())
    assert stats.steps[0].loss is not None and abs(stats.steps[0].loss - expected) < 1e-5
    assert stats.steps[-1].loss is not None and stats.steps[-1].loss < stats.steps[0].loss
    other, _ = run(start, table, load({"distill": {"objective": {"name": "weighted"}}}).distill)
    assert moved(start, trained) and moved(other, trained)


def moved(first: PolicyState, second: PolicyState) -> bool:
    pairs = zip(first.denoiser.parameters(), second.denoiser.parameters(), strict=True)
    return any(not torch.equal(one, two) for one, two in pairs)


def family(values: dict[str, dict[str, dict[str, object]]], folder: Path) -> None:
    """A checkpoint that calls itself so is read, phrased, sampled, and kept."""
    write_dream(folder, model_type="qwen2-mdlm")  # its layout is a Qwen2's
    values["policy"]["model"] = {"path": str(folder)}
    policy = load(values).policy
    assert policy.model is not None and policy.adapter is not None
    denoiser = load_source(policy.model, CPU)
    assert denoiser.family.name == "qwen2_mdlm" and not denoiser.family.shifted
    assert denoiser.tokenizer.decode(denoiser.encode("12")).startswith("<|im_start|>user\n12<|im_end|>")
    denoiser.attach_adapter(policy.adapter, seed=0)
    problem = {"id": "p", "prompt": "12", "problem": "12", "reference": "12"}
    config = load({}).rollout
    (made,), _ = shard.complete(denoiser, [(problem, 0, 1)], config.sampler, config.engine, 1, "")
    assert len(made.completion_ids) == config.sampler.length
    assert families.of_config({"model_type": "qwen2-mdlm"}).name == "qwen2_mdlm"


def engine(values: Mapping[str, object]) -> None:
    """It writes from left to right, and an evaluation says that it did."""
    denoiser = build()
    config = load(values).evaluation
    made = engines.make(config.engine, denoiser)
    requests = [Request(denoiser.encode(text), key) for key, text in enumerate(("12=", "x=", "(1+2)*3="))]
    found = made.complete(requests, config.sampler, 2, "")
    assert [one.unmasked_at for one in found] == [list(range(config.sampler.length))] * 3
    problems = tables.pa.Table.from_pylist(
        [{"id": "test-000000", "prompt": "12=", "problem": "12", "reference": "12"}], tables.PROMPTS
    )
    rows, _ = answering.answer(checkpoint.base_state(denoiser), problems, config, seed=0, shard=0, shards=1)
    assert rows[0]["steps"] == config.sampler.length


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    pages = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    objective(pages["objective"])
    family(pages["family"], folder / "model")
    engine(pages["engine"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
