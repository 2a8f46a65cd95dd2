"""Defaults that must survive a partial configuration, and combinations that are refused, with what they say."""

import json

import pytest

from tasks.gdsd.config import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.objective_config import DiffuGrpoConfig, EspoConfig, GdsdConfig, ObjectiveConfig, SpgConfig, Wd1Config


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
