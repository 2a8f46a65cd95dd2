"""Defaults that must survive a partial configuration, and combinations that are refused, with what they say."""

import json
from pathlib import Path

import pytest

from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, GdsdConfig, ObjectiveConfig, SpgConfig, Wd1Config
from tasks.gdsd.config.prompts import HubDataset, PromptFile
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import ConfigError


def load(**stages: object) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps(stages))


def with_objective(**fields: object) -> ObjectiveConfig:
    return load(distill={"objective": fields}).distill.objective


def refusal(**fields: object) -> str:
    """What is said of the only refused field of an objective."""
    with pytest.raises(ConfigError) as caught:
        with_objective(**fields)
    head, *lines = str(caught.value).splitlines()
    assert head == "TrainConfig refused:" and len(lines) == 1
    return lines[0].strip()


def test_a_partial_evaluation_stays_greedy() -> None:
    """If it fails, changing the length of an evaluation silently changes its protocol to sampling."""
    config = load(evaluation={"sampler": {"length": 32}})
    assert (config.evaluation.sampler.temperature, config.evaluation.sampler.steps_per_block) == (0.0, 16)


def test_rollouts_without_randomness_are_refused() -> None:
    """If it fails, a run trains for hours on groups of equal completions, which carry no signal."""
    with pytest.raises(ConfigError, match=r"rollout.*temperature 0"):
        load(rollout={"sampler": {"temperature": 0}})


# The choice of an objective


@pytest.mark.parametrize("kind", [GdsdConfig, EspoConfig, SpgConfig, Wd1Config, DiffuGrpoConfig])
def test_an_objective_is_chosen_by_name(kind: type[ObjectiveConfig]) -> None:
    """If it fails, a comparison trains the same objective under several names."""
    name = kind.model_fields["name"].default
    assert type(with_objective(name=name)) is kind
    assert with_objective(name=name) == kind()


def test_gdsd_is_meant_where_no_objective_is_named() -> None:
    """If it fails, configurations from before there were rivals are refused, or train something else."""
    assert with_objective() == GdsdConfig() == load().distill.objective
    assert with_objective(guidance=0.1) == GdsdConfig(guidance=0.1)


def test_another_objective_survives_a_round_trip() -> None:
    """If it fails, a run's record does not say what was trained, and cannot be run again."""
    config = load(distill={"objective": {"name": "espo", "clip": 0.1}})
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("name, near", [("gdds", "gdsd"), ("ESPO", None), ("diffu-grpo", "diffu_grpo"), ("wd2", "wd1")])
def test_an_unknown_objective_is_refused_with_the_nearest(name: str, near: str | None) -> None:
    """If it fails, a slip in the name is answered by five times the errors of all objectives."""
    said = refusal(name=name)
    assert said.startswith(f"distill.objective.name: got {name!r}; ")
    assert (f"did you mean {near!r}?" in said) if near else ("did you mean" not in said)
    assert all(known in said for known in ("gdsd", "espo", "spg", "wd1", "diffu_grpo"))


@pytest.mark.parametrize("value", ["gdsd", None, 3, ["gdsd"]])
def test_what_is_no_objective_is_refused(value: object) -> None:
    """If it fails, a name without a mapping ends in a stack trace."""
    with pytest.raises(ConfigError, match=r"distill\.objective"):
        load(distill={"objective": value})


def test_a_field_of_another_objective_is_refused_by_its_path() -> None:
    """If it fails, a rival trains without the option that its configuration seems to set."""
    said = refusal(name="espo", guidance=0.5)
    assert said.startswith("distill.objective.guidance: unknown key; ") and "kl_weight" in said
    assert refusal(name="wd1", guidanc=0.5).startswith(
        "distill.objective.guidanc: unknown key; did you mean 'guidance'"
    )


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"guidance": 0}, r"distill.objective.guidance: got 0; input should be greater than 0"),
        ({"name": "spg", "mix": 2}, "distill.objective.mix: got 2; input should be less than or equal to 1"),
        ({"name": "espo", "mask_source": "trajectory"}, "distill.objective.mask_source: got 'trajectory'; "),
        ({"name": "gdsd", "readout": "centered"}, "distill.objective.readout: got 'centered'; "),
    ],
)
def test_a_refused_value_is_named_by_what_was_written(fields: dict[str, object], said: str) -> None:
    """If it fails, the path has a part that nobody wrote: the objective's name is a value, not a key."""
    assert refusal(**fields).startswith(said)


# Combinations

SHARED = "baseline 'group' cancels normalisers only between completions under the same masks"


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"top_k": 8}, "readout 'log_prob' with top_k 8"),
        ({"readout": "centred", "top_k": 8}, "readout 'centred' with top_k 8"),
        ({"readout": "centred_topk"}, "readout 'centred_topk' with top_k None: 'centred_topk' needs a top_k"),
        ({"weights": "elbo"}, "weights 'elbo' are those of masks of uniform size"),
        ({"weights": "elbo", "mask_source": "trajectory"}, "weights 'elbo' are those of masks of uniform size"),
        ({"form": "penalty"}, "form 'penalty' without reference_weight is form 'optimum'"),
        ({"baseline": "group"}, SHARED),
        ({"baseline": "group", "mask_source": "random", "share_masks": False}, SHARED),
        ({"baseline": "group", "mask_source": "random", "after_end": "ignored"}, SHARED),
    ],
)
def test_a_combination_without_meaning_is_refused(fields: dict[str, object], said: str) -> None:
    """If it fails, a run has an option that changes nothing, or one whose assumptions do not hold."""
    assert refusal(**fields).startswith(f"distill.objective: {said}")


@pytest.mark.parametrize(
    "fields",
    [
        {"readout": "centred_topk", "top_k": 8},
        {"weights": "elbo", "mask_source": "random"},
        {"form": "penalty", "reference_weight": 0.1, "readout": "centred"},
        {"baseline": "group", "mask_source": "random"},
        {"after_end": "ignored", "trust_region": 0.1},
    ],
)
def test_what_is_one_step_from_a_refusal_is_allowed(fields: dict[str, object]) -> None:
    """If it fails, the remedy that a refusal names is refused as well."""
    assert with_objective(**fields).model_dump().items() >= fields.items()


# Domains and sources

PIN = "0" * 64
FILE = {"path": "p.jsonl", "sha256": PIN}


def refused(**stages: object) -> list[str]:
    """What is said of each refused field of a training run."""
    with pytest.raises(ConfigError) as caught:
        load(**stages)
    head, *lines = str(caught.value).splitlines()
    assert head == "TrainConfig refused:"
    return [line.strip() for line in lines]


def test_sudoku_is_meant_where_no_domain_is_named() -> None:
    """If it fails, the shortest configuration is refused, or asks something else."""
    assert load(prompts={"domain": {"max_empty": 4}}).prompts.domain.root == SudokuConfig(max_empty=4)
    assert load(prompts={}).prompts.domain.name == "sudoku"


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        (
            {"name": "sudoko"},
            "prompts.domain.name: got 'sudoko'; did you mean 'sudoku'? allowed: 'sudoku', 'count",
        ),
        ({"name": "sudoku", "min_empt": 3}, "prompts.domain.min_empt: unknown key; did you mean 'min_empty'? "),
        ({"name": "countdown", "min_empty": 3}, "prompts.domain.min_empty: unknown key; "),
        ({"name": "sudoku", "max_empty": 13}, "prompts.domain.max_empty: got 13; input should be less than or equal"),
        ({"name": "sudoku", "weights": {"cell": 1.0}}, "prompts.domain: weights has cell, but the reward's parts are"),
        ("sudoku", "prompts.domain: got 'sudoku'; it should be a mapping such as {'name': 'sudoku'}"),
        ({"name": "custom"}, "prompts.domain.path: "),
    ],
    ids=str,
)
def test_a_refused_domain_is_named_by_what_was_written(domain: object, said: str) -> None:
    """If it fails, the path has a part that nobody wrote, or a slip is answered by the errors of all domains."""
    (line,) = refused(prompts={"domain": domain})
    assert line.startswith(said)


@pytest.mark.parametrize("data", ["train_data", "validation_data", "test_data"])
def test_both_kinds_of_source_are_chosen_by_their_key(data: str) -> None:
    """If it fails, a data set of the hub is looked for on the disk."""
    hub = {"hub": "openai/gsm8k", "subset": "main", "revision": "a" * 40}
    assert getattr(load(prompts={data: FILE}).prompts, data) == PromptFile(path="p.jsonl", sha256=PIN)
    config = load(prompts={data: hub})
    assert getattr(config.prompts, data) == HubDataset(hub="openai/gsm8k", subset="main", revision="a" * 40)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"hub": "openai/gsm8k", "revision": "main"}, "prompts.train_data.revision: got 'main'; string should match"),
        (
            {"hub": "openai/gsm8k", "revison": "a" * 40},
            "prompts.train_data.revison: unknown key; did you mean 'revis",
        ),
        ({"path": "p.jsonl", "sha": PIN}, "prompts.train_data.sha: unknown key; did you mean 'sha256'"),
        ({"path": "", "sha256": PIN}, "prompts.train_data.path: got ''; string should have at least 1 character"),
        ({**FILE, "split": "train"}, "prompts.train_data.split: unknown key; allowed: path, sha256"),
    ],
    ids=str,
)
def test_a_refused_source_is_named_by_what_was_written(source: object, said: str, tmp_path: Path) -> None:
    """If it fails, a user does not learn which of his three sources has the slip."""
    if isinstance(source, dict) and "sha" in source:
        (tmp_path / "p.jsonl").write_text("")
        source = source | {"path": str(tmp_path / "p.jsonl")}
    assert any(line.startswith(said) for line in refused(prompts={"train_data": source}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"domain": {"name": "gsm8k"}},
            "prompts: gsm8k problems are not generated, so they need a source; set test",
        ),
        ({"columns": {"puzzle": "grid"}}, "prompts: columns are those of a source, and there is none"),
        (
            {"columns": {"question": "q"}, "test_data": FILE},
            "prompts: columns has question, but sudoku reads puzzle, solution, or id, problem, prompt, reference",
        ),
        (
            {"columns": {"problem": "text", "prompt": "text"}, "test_data": FILE},
            "prompts: columns names text more than once, but a column holds one thing",
        ),
        ({"similarity": 0}, "prompts.similarity: got 0; input should be greater than 0"),
        ({"near_duplicates": "keep"}, "prompts.near_duplicates: got 'keep'; input should be 'refuse' or 'drop'"),
    ],
)
def test_sources_that_cannot_serve_are_refused(fields: dict[str, object], said: str) -> None:
    """If it fails, a configuration that cannot run is noticed in the first task on the cluster."""
    (line,) = refused(prompts=fields)
    assert line.startswith(said)


def test_a_domain_without_problems_needs_a_training_source_only_to_train() -> None:
    """If it fails, a test set alone cannot be evaluated on, or a training without problems is started."""
    prompts = {"domain": {"name": "gsm8k"}, "test_data": FILE}
    assert EvaluateConfig.model_validate_json(json.dumps({"prompts": prompts})).prompts.domain.name == "gsm8k"
    (line,) = refused(prompts=prompts)
    assert line == "TrainConfig: gsm8k problems are not generated, so training needs a source; set prompts.train_data"


def test_guards_are_domains_with_test_problems_of_their_own() -> None:
    """If it fails, a guard without problems, or with prompts that the policy cannot read, stops the run at its end."""
    guards = load(judge={"guards": {"sums": {"domain": {"name": "countdown"}, "test_size": 64}}}).judge.guards
    assert (guards["sums"].domain.name, guards["sums"].test_size, guards["sums"].tolerance) == ("countdown", 64, 0.02)
    (line,) = refused(judge={"guards": {"words": {"domain": {"name": "gsm8k"}}}})
    assert line.startswith("judge.guards.words: gsm8k problems are not generated, so they need a source")
    (line,) = refused(judge={"guards": {"words": {"domain": {"name": "gsm8k"}, "test_data": FILE}}})
    assert "judge.guards.words.domain gsm8k has prompts with characters that the tiny family does not know" in line
    (line,) = refused(judge={"guards": {"sums": {"train_size": 64}}})
    assert line.startswith("judge.guards.sums.train_size: unknown key; ")
    (line,) = refused(judge={"guards": {"No good": {}}})
    assert "No good" in line


def test_a_prompt_that_the_policy_cannot_read_is_refused() -> None:
    """If it fails, the tiny policy trains on prompts of unknown characters."""
    (line,) = refused(prompts={"domain": {"name": "sudoku", "format": "tagged"}})
    assert "prompts.domain sudoku has prompts with characters that the tiny family does not know" in line
