"""Defaults that must survive a partial configuration, and what is refused, with what is said of it."""

import json

import pytest

from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, GdsdConfig, ObjectiveConfig, SpgConfig, Wd1Config
from tasks.gdsd.config.prompts import HubDataset, PromptFile
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import ConfigError

Stages = dict[str, object]

PIN, COMMIT = "0" * 64, "a" * 40
FILE = {"path": "p.jsonl", "sha256": PIN}
HUB = {"hub": "openai/gsm8k", "subset": "main", "revision": COMMIT}
WORDS = {"name": "gsm8k"}


def load(**stages: object) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps(stages))


def refusal(**stages: object) -> str:
    """What is said of the only refused field of a training run."""
    with pytest.raises(ConfigError) as caught:
        load(**stages)
    head, line = str(caught.value).splitlines()
    assert head == "TrainConfig refused:"
    return line.strip()


def objective(**fields: object) -> Stages:
    return {"distill": {"objective": fields}}


def prompts(**fields: object) -> Stages:
    return {"prompts": fields}


def guard(**fields: object) -> Stages:
    return {"judge": {"guards": {"words": fields}}}


def test_a_partial_evaluation_stays_greedy() -> None:
    """If it fails, changing the length of an evaluation silently changes its protocol to sampling."""
    config = load(evaluation={"sampler": {"length": 32}})
    assert (config.evaluation.sampler.temperature, config.evaluation.sampler.steps_per_block) == (0.0, 16)


@pytest.mark.parametrize("kind", [GdsdConfig, EspoConfig, SpgConfig, Wd1Config, DiffuGrpoConfig])
def test_an_objective_is_chosen_by_name(kind: type[ObjectiveConfig]) -> None:
    """If it fails, a comparison trains the same objective under several names, or a record cannot be run again."""
    config = load(**objective(name=kind.model_fields["name"].default))
    assert config.distill.objective == kind()
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_what_is_meant_where_nothing_is_named() -> None:
    """If it fails, the shortest configuration is refused, or trains or asks something else."""
    assert load(**objective()).distill.objective == GdsdConfig() == load().distill.objective
    assert load(**objective(guidance=0.1)).distill.objective == GdsdConfig(guidance=0.1)
    assert load(**prompts(domain={"max_empty": 4})).prompts.domain.root == SudokuConfig(max_empty=4)
    assert load(**prompts()).prompts.domain.name == "sudoku"


def test_both_kinds_of_source_are_chosen_by_their_key() -> None:
    """If it fails, a data set of the hub is looked for on the disk."""
    config = load(**prompts(train_data=FILE, validation_data=HUB, test_data=HUB))
    assert config.prompts.train_data == PromptFile(path="p.jsonl", sha256=PIN)
    assert config.prompts.validation_data == HubDataset(hub="openai/gsm8k", subset="main", revision=COMMIT)
    assert config.prompts.sources == [
        config.prompts.train_data,
        config.prompts.validation_data,
        config.prompts.test_data,
    ]
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


SLIPS = [
    (objective(name="gdds"), "distill.objective.name: got 'gdds'; did you mean 'gdsd'? allowed: 'gdsd', 'espo', "),
    (objective(name="ESPO"), "distill.objective.name: got 'ESPO'; allowed: "),
    (objective(name="espo", guidance=0.5), "distill.objective.guidance: unknown key; "),
    (objective(name="wd1", guidanc=0.5), "distill.objective.guidanc: unknown key; did you mean 'guidance'"),
    (objective(guidance=0), "distill.objective.guidance: got 0; input should be greater than 0"),
    (objective(name="spg", mix=2), "distill.objective.mix: got 2; input should be less than or equal to 1"),
    (objective(name="espo", mask_source="trajectory"), "distill.objective.mask_source: got 'trajectory'; "),
    (objective(name="gdsd", readout="centered"), "distill.objective.readout: got 'centered'; "),
    *(({"distill": {"objective": value}}, "distill.objective: got ") for value in ("gdsd", None, 3, ["gdsd"])),
    (
        prompts(domain={"name": "sudoko"}),
        "prompts.domain.name: got 'sudoko'; did you mean 'sudoku'? allowed: 'sudoku', ",
    ),
    (prompts(domain={"min_empt": 3}), "prompts.domain.min_empt: unknown key; did you mean 'min_empty'? "),
    (prompts(domain={"name": "countdown", "min_empty": 3}), "prompts.domain.min_empty: unknown key; "),
    (prompts(domain={"max_empty": 13}), "prompts.domain.max_empty: got 13; input should be less than or equal"),
    (prompts(domain={"weights": {"cell": 1.0}}), "prompts.domain: weights has cell, but the reward's parts are"),
    (prompts(domain="sudoku"), "prompts.domain: got 'sudoku'; it should be a mapping such as {'name': 'sudoku'}"),
    (prompts(domain={"name": "custom"}), "prompts.domain.path: "),
    (
        prompts(domain={"name": "code", "isolation": "processes"}),
        "prompts.domain.isolation: got 'processes'; input should",
    ),
    (prompts(train_data=HUB | {"revision": "main"}), "prompts.train_data.revision: got 'main'; string should match"),
    (prompts(train_data=HUB | {"splitt": "x"}), "prompts.train_data.splitt: unknown key; did you mean 'split'"),
    (prompts(train_data=FILE | {"sha": PIN}), "prompts.train_data.sha: unknown key; did you mean 'sha256'"),
    (
        prompts(train_data=FILE | {"path": ""}),
        "prompts.train_data.path: got ''; string should have at least 1 character",
    ),
    (prompts(train_data=FILE | {"split": "train"}), "prompts.train_data.split: unknown key; allowed: path, sha256"),
    (prompts(similarity=0), "prompts.similarity: got 0; input should be greater than 0"),
    (prompts(near_duplicates="keep"), "prompts.near_duplicates: got 'keep'; input should be 'refuse' or 'drop'"),
    (guard(train_size=64), "judge.guards.words.train_size: unknown key; "),
    ({"judge": {"guards": {"No good": {}}}}, "judge.guards.No good"),
    # a value of another kind
    ({"name": 7152e31}, "name: got 7.152e+34; it should be a text, so put it in quotes: without them it is read as a"),
    ({"name": True}, "name: got true; it should be a text, so put it in quotes"),
    (
        prompts(train_data=HUB | {"revision": int("1" * 40)}),
        "prompts.train_data.revision: got 1.111e+39; it should be a",
    ),
    (prompts(train_data={"hub": "a/b"}), "prompts.train_data.revision: it is missing (the commit; a branch"),
    (
        prompts(train_data="p.jsonl"),
        "prompts.train_data: got 'p.jsonl'; it should be a mapping with path, sha256 or hub",
    ),
    (
        {"distill": None},
        "distill: got null; it should be a mapping; give it fields, indented below it, or leave it out",
    ),
    (prompts(columns=["q"]), "prompts.columns: got ['q']; it should be a mapping"),
    (
        {"distill": {"learning_rate": "1e-4"}},
        "distill.learning_rate: got '1e-4'; it should be a number, in digits, without",
    ),
    (
        {"rounds": "10k"},
        "rounds: got '10k'; it should be a whole number, in digits, without quotes, commas or units (allo",
    ),
    ({"rounds": None}, "rounds: got null; it should be a whole number; leave it out for the default (allowed: integer"),
    (
        objective(trust_region="None"),
        "distill.objective.trust_region: got 'None'; it should be a number; write null, with",
    ),
    ({"reward": {"scale_by_std": "yes"}}, "reward.scale_by_std: got 'yes'; it should be true or false, without quotes"),
    ({"evaluation": {"pass_at": 1}}, "evaluation.pass_at: got 1; it should be a list such as [a, b]"),
    # a key in the wrong place, or in another case
    ({"ROUNDS": 3}, "ROUNDS: unknown key; did you mean 'rounds'? "),
    ({"group_size": 8}, "group_size: unknown key; did you mean 'rollout.group_size'? allowed: name, "),
    (
        prompts(train_data=FILE | {"unusable": "drop"}),
        "prompts.train_data.unusable: unknown key; did you mean 'prompts.unusable' or 'judge.guards.NAME.unusable'? ",
    ),
    ({"policy": {"hub": "a/b"}}, "policy.hub: unknown key; did you mean 'policy.model.hub'? allowed: seed, "),
    ({"distill.inner_steps": 1}, "distill.inner_steps: unknown key; write each part of it below the one before; allow"),
    (
        {"rollout": {"group_size:4": None}},
        "rollout.group_size:4: unknown key; write a space behind the colon; allowed: ",
    ),
    ({"evaluation": {"samples": 4, "pass_at": [1, 1]}}, "evaluation.pass_at: has 1 more than once; name it once"),
]

SHARED = "distill.objective: baseline 'group' cancels normalisers only between completions under the same masks"
ELBO = "distill.objective: weights 'elbo' are those of masks of uniform size"
CODE = {"domain": {"name": "code"}, "train_data": FILE, "test_data": FILE}
FROM_DATA = {"policy": {"tiny": {"alphabet": "from_data"}}}
COMBINATIONS = [
    (
        {"rollout": {"sampler": {"temperature": 0}}},
        "rollout: sampler.temperature 0 makes all completions of a group alike",
    ),
    (objective(top_k=8), "distill.objective: readout 'log_prob' with top_k 8"),
    (objective(readout="centred", top_k=8), "distill.objective: readout 'centred' with top_k 8"),
    (
        objective(readout="centred_topk"),
        "distill.objective: readout 'centred_topk' with top_k None: 'centred_topk' needs",
    ),
    (objective(weights="elbo"), ELBO),
    (objective(weights="elbo", mask_source="trajectory"), ELBO),
    (objective(mask_blocks=4), "distill.objective: mask_blocks 4 is for random masks, and mask_source is 'path'"),
    (
        objective(path_states=4, mask_source="trajectory"),
        "distill.objective: path_states 4 is for the mask_source 'path', and it is 'trajectory'",
    ),
    (
        objective(mask_pairs=2),
        "distill.objective: mask_source 'path' has states in the place of mask pairs, but mask_pairs is 2",
    ),
    (
        objective(complement=False),
        "distill.objective: mask_source 'path' has states in the place of mask pairs, but mask_pairs is 1 and "
        "complement is false",
    ),
    (
        objective(path_states=None, share_masks=False),
        "distill.objective: share_masks false changes nothing where all states of a path are read",
    ),
    (
        objective(mask_blocks=16, mask_source="random"),
        "distill.objective.mask_blocks 16 makes one block of the 16 tokens",
    ),
    (objective(baseline="group"), SHARED),
    (objective(baseline="group", mask_source="random", share_masks=False), SHARED),
    (objective(baseline="group", mask_source="random", after_end="ignored"), SHARED),
    (prompts(domain=WORDS), "prompts: gsm8k problems are not generated, so they need a source; set test_data"),
    (
        prompts(domain=WORDS, test_data=FILE),
        "gsm8k problems are not generated, so training needs a source",
    ),
    (prompts(columns={"puzzle": "grid"}), "prompts: columns are those of a source, and there is none"),
    (
        prompts(columns={"question": "q"}, test_data=FILE),
        "prompts: columns has question, but sudoku reads puzzle, solution, or id, problem, prompt, reference",
    ),
    (
        prompts(columns={"problem": "text", "prompt": "text"}, test_data=FILE),
        "prompts: columns names text more than once, but a column holds one thing",
    ),
    (guard(domain=WORDS), "judge.guards.words: gsm8k problems are not generated, so they need a source"),
    (guard(domain=WORDS, test_data=FILE), "judge.guards.words.domain gsm8k: the prompt of its"),
    (
        prompts(domain={"format": "tagged"}),
        "prompts.domain sudoku: the prompt of its example has 'S' (U+0053 LATIN CAPITAL LETTER S), 'I' "
        "(U+0049 LATIN CAPITAL LETTER I), 'F' (U+0046 LATIN CAPITAL LETTER F) and 6 more, near 'Solve this 4', which "
        "the tiny policy's alphabet lacks; set policy.tiny.alphabet to from_data, or name a published model by",
    ),
    (
        prompts(**CODE) | FROM_DATA,
        "policy.warm_start teaches the references of training problems, and those of code are no answers;",
    ),
    (
        {"rounds_per_task": 5, "distill": {"compute": {"nodes": 2}}},
        "rounds_per_task 5 makes rounds on one machine, and distill.compute.nodes is 2; set nodes to 1, or",
    ),
    (
        {"rounds_per_task": 5, "distill": {"compute": {"processes": 2}}, "rollout": {"shards": 3}},
        "rounds_per_task 5 lets the 2 distill.compute.processes share the shards of the rollouts, and 3 rollout.shards "
        "do not go among them; use a multiple, such as 2",
    ),
    ({"keep_rollouts": [1]}, "keep_rollouts is for rounds_per_task above 1; with 1, the completions of all rounds are"),
    (
        {"rounds": 9, "rounds_per_task": 5, "keep_rollouts": [9, 10]},
        "keep_rollouts has round 10, but the run has 9 rounds; leave it out",
    ),
]


@pytest.mark.parametrize(("stages", "said"), SLIPS, ids=str)
def test_a_slip_is_named_by_what_was_written(stages: Stages, said: str) -> None:
    """If it fails, a path has a part that nobody wrote, or one slip is answered by the errors of a whole union."""
    assert refusal(**stages).startswith(said)


@pytest.mark.parametrize(("stages", "said"), COMBINATIONS, ids=str)
def test_a_combination_without_meaning_is_refused(stages: Stages, said: str) -> None:
    """If it fails, an option changes nothing, or a run that cannot work is noticed in its first task or at its end."""
    assert refusal(**stages).startswith(said)


@pytest.mark.parametrize(
    "fields",
    [
        {"readout": "centred_topk", "top_k": 8},
        {"weights": "elbo", "mask_source": "random"},
        {"form": "penalty", "reference_weight": 0.1, "readout": "centred"},
        {"form": "token_penalty", "reference_weight": 0.1, "readout": "centred"},
        {"mask_source": "path", "path_states": 4, "share_masks": False},
        {"baseline": "group", "mask_source": "random"},
        {"mask_blocks": 15, "mask_source": "random", "weights": "elbo"},
        {"after_end": "ignored", "trust_region": 0.1},
    ],
)
def test_what_is_one_step_from_a_refusal_is_allowed(fields: dict[str, object]) -> None:
    """If it fails, the remedy that a refusal names is refused as well."""
    assert load(**objective(**fields)).distill.objective.model_dump().items() >= fields.items()


@pytest.mark.parametrize(
    "stages",
    [
        prompts(domain={"format": "tagged"}) | FROM_DATA,
        prompts(**CODE) | {"policy": FROM_DATA["policy"] | {"warm_start": {"steps": 0}}},
    ],
)
def test_a_tiny_policy_can_have_the_characters_of_any_domain(stages: Stages) -> None:
    """If it fails, the remedies of the refusals above are refused as well."""
    assert load(**stages).policy.tiny is not None


def test_a_test_set_needs_no_training_problems() -> None:
    """If it fails, a policy cannot be evaluated or guarded on problems that are only read or only few."""
    read = EvaluateConfig.model_validate_json(json.dumps(prompts(domain=WORDS, test_data=FILE)))
    assert read.prompts.domain.name == "gsm8k"
    guards = load(**guard(domain={"name": "countdown"}, test_size=64)).judge.guards
    assert (guards["words"].domain.name, guards["words"].test_size, guards["words"].tolerance) == (
        "countdown",
        64,
        0.02,
    )
