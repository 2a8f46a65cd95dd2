"""The recipes for published models: each loads, compiles, and runs a round on a small random model of its own family.

Only sizes and sources are changed for the run: a checkpoint in the family's official layout, a few problems in the
columns of the recipe's data sets, short completions. Prompts, masks, objective, optimizer and adapter stay as they are.
An untrained model solves nothing, so that no answer would be better than another: the reward gets one more part, which
no two random texts share.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from _pytest.mark import ParameterSet

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.domains.base import Answer, Domain, Problem, Verdict
from tasks.gdsd.planning import ways
from tasks.gdsd.planning.capacity import Assumptions, sized
from tasks.gdsd.planning.memory import GIB
from tasks.gdsd.planning.plan import plan
from tasks.gdsd.planning.shapes import shape_of
from tasks.gdsd.planning.work import DEVICES
from tests.gdsd.checkpoints import edit_json
from tests.gdsd.official import WRITERS
from tests.workflows.conftest import ROOT, quick_runs
from tests.workflows.test_compiled import leg_inputs, unroll
from workflows import gdsd, rounds

FAMILIES = {"llada": "llada", "dream": "dream", "qwen3": "qwen3_mdlm"}  # by the first word of a recipe's name
RECIPES = sorted(path for family in FAMILIES for path in (ROOT / "configs").glob(f"{family}_*.yaml"))
SIZES = {"train": 4, "validation": 1, "test": 1}


class Graded(Domain):
    """Asks and judges as the domain `of`; the part `checksum` is one of an answer's characters, scaled to [0, 1]."""

    parts = {"checksum": 1.0}  # noqa: RUF012
    columns = ("problem",)
    example = Answer("1", "1", "1")

    def __init__(self, of: str) -> None:
        self.of = make(DomainChoice.model_validate_json(of))
        self.parts = {**self.of.parts, "checksum": 1.0}
        self.columns, self.example, self.generates = self.of.columns, self.of.example, self.of.generates
        self.optional, self.reference_is_answer = self.of.optional, self.of.reference_is_answer

    def problems(self, seed: int) -> Iterator[Problem]:
        return self.of.problems(seed)

    def read(self, row: Mapping[str, object]) -> Problem:
        return self.of.read(row)

    def phrase(self, problem: str) -> str:
        return self.of.phrase(problem)

    def fault(self, problem: str, reference: str) -> str | None:
        return self.of.fault(problem, reference)

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return self.verify_all([Answer(problem, reference, answer)])[0]

    def verify_all(self, items: Sequence[Answer]) -> list[Verdict]:
        return [
            Verdict({**verdict.parts, "checksum": sum(map(ord, item.text)) % 997 / 996}, verdict.solved)
            for item, verdict in zip(items, self.of.verify_all(items), strict=True)
        ]


def written(recipe: Path) -> dict[str, dict]:
    return yaml.safe_load(recipe.read_text())


def load(config: object) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps(config))


def row(source: str, number: int) -> dict[str, object]:
    """A problem of its own for each number, in the columns of a data set."""
    match source:
        case "openai/gsm8k":
            return {"question": f"What is {number} + 1?", "answer": f"Add them.\n#### {number + 1}"}
        case "DigitalLearningGmbH/MATH-lighteval":
            solution = f"It is $\\boxed{{{number + 1}}}$."
            return {"problem": f"What is ${number} + 1$?", "level": "Level 1", "type": "Algebra", "solution": solution}
        case "HuggingFaceH4/MATH-500":
            text = {"problem": f"What is ${number} + 1$?", "solution": "It is $1$.", "answer": f"{number + 1}"}
            return text | {"subject": "Algebra", "level": 1, "unique_id": f"test/{number}.json"}
        case "google-research-datasets/mbpp":
            return {
                "task_id": number,
                "text": f"Write a function to add {number} to a number.",
                "code": f"def add_{number}(x):\n    return x + {number}",
                "test_list": [f"assert add_{number}(1) == {number + 1}"],
                "test_setup_code": "",
                "challenge_test_list": [],
            }
        case "openai/openai_humaneval":
            return {
                "task_id": f"HumanEval/{number}",
                "prompt": f'def add(x):\n    """Add {number} to x."""\n',
                "canonical_solution": f"    return x + {number}\n",
                "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
                "entry_point": "add",
            }
    raise AssertionError(f"{source} has no rows here")


def replace_source(sources: dict[str, dict], name: str, folder: Path, numbers: range) -> None:
    """Puts a local file in the place of a data set."""
    file = folder / f"{name}.{numbers.start}.jsonl"
    file.write_text("".join(json.dumps(row(sources[name]["hub"], number)) + "\n" for number in numbers))
    sources[name] = {"path": str(file)}


def graded(domain: dict[str, object]) -> dict[str, object]:
    if domain["name"] == "code":
        domain = domain | {"isolation": "none"}  # of what this machine offers the most is used, whatever that is
    return {"name": "custom", "path": f"{__name__}:Graded", "options": {"of": json.dumps(domain)}}


def small(recipe: Path, folder: Path) -> TrainConfig:
    """Returns the recipe for a small random model of its family, on a few problems, for one round."""
    config = written(recipe) | {"rounds": 1}
    family = FAMILIES[recipe.stem.partition("_")[0]]
    WRITERS[family](folder / "model")
    positions = "max_sequence_length" if family == "llada" else "max_position_embeddings"
    edit_json(folder / "model" / "config.json", **{positions: 4096})  # as published: prompts are whole ones
    config["policy"]["model"] = {"path": str(folder / "model")}
    prompts = config["prompts"]
    for start, (split, size) in enumerate(SIZES.items()):
        prompts[f"{split}_size"] = size
        if f"{split}_data" in prompts:
            room = SIZES["validation"] if split == "train" else 0  # which may be set aside
            replace_source(prompts, f"{split}_data", folder, range(20 * start, 20 * start + size + room))
    prompts["domain"] = graded(prompts["domain"])
    for guard in config.get("judge", {}).get("guards", {}).values():
        replace_source(guard, "test_data", folder, range(90, 91))
        guard |= {"test_size": 1, "domain": graded(guard["domain"])}
    config["policy"]["adapter"] |= {"rank": 4, "alpha": 2.0}
    config["rollout"] |= {"prompts_per_round": 2, "group_size": 2, "batch_size": 2, "shards": 2}
    config["distill"]["compute"]["processes"] = 1
    config["distill"]["inner_steps"] = min(2, config["distill"]["inner_steps"])  # bfloat16 is slow without hardware
    config["evaluation"] |= {"shards": 1}
    for stage in ("rollout", "evaluation"):
        sampler = config[stage]["sampler"]
        blocks = min(2, sampler["length"] // sampler["block_length"])
        sampler |= {"length": 8, "block_length": 8 // blocks, "steps_per_block": 2}
    if "mask_blocks" in config["distill"]["objective"]:
        config["distill"]["objective"]["mask_blocks"] = 4  # as half of a completion
    return load(config)


def short(number: float) -> str:
    """Two significant digits, as the recipes have them."""
    return f"{float(f'{number:.2g}'):g}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_says_what_it_costs(recipe: Path) -> None:
    """If it fails, a published recipe is refused, or a person learns from the bill what it needs.

    Header and docs/recipes.md have what `python -m tasks.describe` says; whatever changes that has to change them.
    """
    config, alone = (load(written(recipe) | change) for change in ({}, {"rounds_per_task": 1}))
    assert config.name == recipe.stem and config.policy.model is not None
    head = " ".join(line.removeprefix("#").strip() for line in recipe.read_text().split("\nname:")[0].splitlines())
    (family, shape), kind = shape_of(config.policy), config.hardware.distill.kind
    found, device, assumed = plan(config, shape, family), DEVICES[kind], Assumptions()
    way = ways.resident(config, found, device, assumed) if found.tasks else ways.staged(config, found, device, assumed)
    rollout, distill = (short(memory.total / GIB) for memory in (found.rollout, found.distill))
    assert (
        f"Planned (python -m tasks.describe configs/{recipe.name}), not measured, for prompts of {found.prompt_tokens} "
        f"tokens: {short(way.hours)} GPU hours of an {kind.upper()}, of which {short(way.work)} are work, in "
        f"{short(way.clock)} by the clock; {rollout} GiB for rollouts, {distill} for training."
    ) in head
    alone = sized(alone, config.rollout.shards, processes=1)
    staged = ways.staged(alone, plan(alone, shape, family), device, assumed)
    saved = f"{1 - way.hours / staged.hours:.0%}"
    stays = f"{config.distill.compute.processes} | {short(way.hours)} in {short(way.clock)} | {saved}"
    row = (
        f"| `configs/{recipe.name}` | {kind.upper()} | {short(staged.hours)} in {short(staged.clock)} | "
        f"{stays if found.tasks else '- | - | -'} | {rollout} / {distill} |"
    )
    assert row in (ROOT / "docs/recipes.md").read_text()
    cheaper = ways.why_not_resident(config) is None and ways.resident(config, found, device, assumed).hours < way.hours
    assert not cheaper, "it is cheaper with rounds_per_task"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_compiles_for_a_cluster(recipe: Path, tmp_path: Path) -> None:
    """If it fails, a cluster refuses the rounds that the recipe asks for once it has loaded the base policy."""
    config = load(written(recipe))
    compiled = unroll(rounds.run_leg, leg_inputs(config, tmp_path))
    # Two rounds of rollouts, verdicts, an epoch and what is said of it, or one task of both and what is said of them;
    # after the last one answers and their verdicts.
    assert len(compiled.nodes) == (2 if config.rounds_per_task > 1 else 2 * 4) + 2


def quick(recipe: Path) -> ParameterSet:
    """A recipe as a parameter; the quick tests train one of them."""
    marks = () if recipe.stem == "llada_sudoku" else pytest.mark.whole
    return pytest.param(recipe, marks=marks, id=recipe.stem)


@pytest.mark.parametrize("recipe", map(quick, RECIPES))
def test_a_recipe_trains_a_small_model_of_its_family(recipe: Path, tmp_path: Path) -> None:
    """If it fails, somebody's first hour on a large GPU ends in a stack trace, or with a policy that stood still."""
    torch.set_num_threads(1)
    config = small(recipe, tmp_path)
    with quick_runs(tmp_path / "data"):
        result = gdsd.train(config=config)
    (epoch,) = json.loads(Path(os.fspath(result.folder.path), "run.json").read_text())["epochs"]
    assert epoch["sequences"] > 0 and len(epoch["steps"]) == config.distill.inner_steps
    for step in epoch["steps"]:
        assert not step["skipped"] and math.isfinite(step["loss"]) and step["grad_norm"] > 0
