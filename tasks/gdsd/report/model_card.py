"""The model card of a run's policy, in the form of the Hugging Face hub, filled from the run's record.

Its classes are the hub's own, so that the hub reads what is written. Whatever comes from a configuration or from data
is text in it, and never markup.
"""

import json
import re
import unicodedata
from collections.abc import Iterator

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from tasks.gdsd.config.model_source import HubModel, ModelFolder
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.prompts import HubDataset, PromptConfig, PromptFile, TestConfig
from tasks.gdsd.denoiser.checkpoint_record import CheckpointRecord
from tasks.gdsd.domains import make
from tasks.gdsd.records import EvalReport
from tasks.gdsd.report import outcome
from tasks.gdsd.report.style import table_markdown
from tasks.gdsd.run.provenance import IN_CHECKOUT, Provenance
from tasks.gdsd.run.run_record import RunRecord

PAPER = "[arXiv 2605.29398](https://arxiv.org/abs/2605.29398)"
# Of the published models that the recipes name; of any other one its owner knows more than we do.
LICENCES = {
    "Dream-org/Dream-v0-Instruct-7B": "apache-2.0",
    "GSAI-ML/LLaDA-8B-Instruct": "mit",
    "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1": "apache-2.0",
}
UNKNOWN = "other"  # the hub's word for a licence that is none of its list
# What begins markup of any kind, also where a line starts, and what makes a link of an address.
MARKUP = re.compile(r"""([!"#$&*:<>@\[\\\]^_`{|}~]|^[+-]|\.(?!\d))""")
HERE = 'FOLDER = Path("policy")  # beside this card'
LOAD = f"""\
from pathlib import Path

import torch

from tasks.gdsd import seeds
from tasks.gdsd.config.evaluate import EvaluationConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request

{HERE}
policy = checkpoint.load(FOLDER, torch.device("cpu"), moments=False).denoiser
protocol = EvaluationConfig.model_validate_json(r'{{protocol}}')
prompt = {{prompt}}
engine = engines.make(protocol.engine, policy)
for answers in engine.generate([Request(policy.encode(prompt), seeds.key(0, "card"))], protocol.sampler, 1):
    print(policy.decode(answers[0].ids))"""


def write(record: RunRecord, policy: CheckpointRecord, origin: Provenance) -> str:
    """Returns the card of a run's policy.

    Args:
        policy: what the policy's checkpoint says of itself.
    """
    guards = [[plain(cell) for cell in row] for row in outcome.guarded(record.decision)]
    text = "\n\n".join(
        [
            f"# {plain(record.config.name)}",
            _about(record, policy),
            "## What it reaches",
            _reached(record),
            *([table_markdown(outcome.GUARDS, guards)] if guards else []),
            "## Data",
            _data(record),
            "## How it was trained",
            _training(record),
            "## How to use it",
            _use(record, origin),
            "## Limits",
            "\n".join(f"- {limit}" for limit in _limits(record)),
            "## Licence",
            _licence(record)[1],
            "## Where it comes from",
            _origin(record, policy, origin),
        ]
    )
    card = ModelCard(f"---\n{_metadata(record, policy).to_yaml()}\n---\n\n{text}\n")
    return str(card)


def on_hub(card: str, repo: str) -> str:
    """Returns a run's card for a repository that has its policy: the example gets the policy from there."""
    there = f"from huggingface_hub import snapshot_download\n\nFOLDER = Path(snapshot_download({repo!r}))"
    return card.replace(HERE, there)


def plain(text: str) -> str:
    """Returns text that Markdown shows as it is: on one line, without markup, HTML, links or invisible characters."""
    return MARKUP.sub(r"\\\1", _line(text))


def _line(text: str) -> str:
    """Returns what is seen of a text, on one line."""
    seen = "".join(letter for letter in text if letter.isspace() or unicodedata.category(letter)[0] != "C")
    return " ".join(seen.split())


def _metadata(record: RunRecord, policy: CheckpointRecord) -> ModelCardData:
    config, source = record.config, record.config.policy.model
    licence = _licence(record)[0]
    sources = [*config.prompts.sources, *(one for guard in config.judge.guards.values() for one in guard.sources)]
    datasets = list(dict.fromkeys(source.hub for source in sources if isinstance(source, HubDataset)))
    base = source.hub if isinstance(source, HubModel) else None
    return ModelCardData(
        model_name=config.name,
        base_model=base,
        base_model_relation=None if base is None else "adapter" if policy.adapter else "finetune",
        license=licence,
        license_name="unknown" if licence == UNKNOWN else None,
        library_name="gdsd",
        pipeline_tag="text-generation",
        datasets=datasets or None,
        tags=[
            "gdsd",
            "masked-diffusion",
            "diffusion-language-model",
            "reinforcement-learning",
            policy.family,
            *(["lora"] if policy.adapter else []),
        ],
        metrics=["accuracy"],
        eval_results=[
            *_results(config.prompts, record.trained, "test"),
            *(
                result
                for guard in record.decision.guards
                for result in _results(config.judge.guards[guard.name], guard.trained, f"guard {guard.name}")
            ),
        ],
    )


def _results(config: TestConfig, report: EvalReport, split: str) -> Iterator[EvalResult]:
    source, domain = config.test_data, _line(config.domain.name)
    hub = source if isinstance(source, HubDataset) else None
    numbers = [("accuracy", "solved, %", report.solved.mean)]
    numbers += [("pass@k", f"pass@{found.k}, %", found.share.mean) for found in report.pass_at if found.k > 1]
    for kind, name, value in numbers:
        yield EvalResult(
            task_type="text-generation",
            dataset_type=hub.hub if hub else domain,
            dataset_name=domain,
            dataset_config=_line(hub.subset) if hub and hub.subset else None,
            dataset_split=_line(hub.split) if hub else split,
            dataset_revision=hub.revision if hub else None,
            metric_type=kind,
            metric_name=name,
            metric_value=round(100 * value, 2),
        )


def _about(record: RunRecord, policy: CheckpointRecord) -> str:
    decision = record.decision
    verdict = "was promoted by the gate" if decision.promoted else "was **not** promoted by the gate"
    kind = "an adapter of a" if policy.adapter else "a"
    return (
        f"This is {kind} masked diffusion language model of the family {plain(policy.family)} with "
        f"{record.policy.parameters:,} parameters, trained on {plain(record.config.prompts.domain.name)} problems by "
        f"reinforcement learning. It is the policy after round {record.trained.round} of {len(record.epochs)}, the "
        f"best one on the validation problems, and {verdict}: {plain(decision.reason)}. Is it better "
        f"than its base? On the test problems: {plain(record.answer().words)}."
    )


def _reached(record: RunRecord) -> str:
    table = table_markdown(["test problems", "base", "this policy", "difference"], outcome.reached(record))
    judged = f"{record.trained.judged:.1%} of the answers have a reward; the mean reward leaves out the others."
    return f"{table}\n\n{plain(outcome.protocol(record))} {judged}"


def _data(record: RunRecord) -> str:
    prompts, stats = record.config.prompts, record.prompts
    test, last = record.trained.protocol, record.validations[-1].protocol
    train = "not recorded" if record.policy.train_sha256 is None else f"`{record.policy.train_sha256}`"
    rows = [
        ["training", str(stats.train), _from(prompts, prompts.train_data, prompts.train_seed), train],
        ["validation", str(stats.validation), _validation(prompts), f"`{last.prompts_sha256}`"],
        ["test", str(stats.test), _from(prompts, prompts.test_data, None), f"`{test.prompts_sha256}`"],
    ]
    for guard in record.decision.guards:
        config, protocol = record.config.judge.guards[guard.name], guard.base.protocol
        sha256 = f"`{protocol.prompts_sha256}`"
        rows.append(
            [f"guard {plain(guard.name)}", str(protocol.problems), _from(config, config.test_data, None), sha256]
        )
    left = (
        f"{stats.near_duplicates} problems were left out for being nearly those of another split, and "
        f"{stats.unusable + record.policy.unusable} that are unusable, the same as another or too long"
    )
    return "\n\n".join([table_markdown(["split", "problems", "from", "SHA-256 of the problems"], rows), f"{left}."])


def _from(config: TestConfig, source: PromptFile | HubDataset | None, seed: int | None) -> str:
    if isinstance(source, HubDataset):
        subset = "" if source.subset is None else f", {plain(source.subset)}"
        return f"the data set {plain(source.hub)}{subset}, its split {plain(source.split)}, at `{source.revision}`"
    if isinstance(source, PromptFile):
        return f"a file, SHA-256 `{source.sha256}`"  # its path may say what nobody else should read
    return f"generated, seed {config.seed if seed is None else seed}"


def _validation(prompts: PromptConfig) -> str:
    if prompts.validation_data is None and not make(prompts.domain).generates:
        return "set aside from the training source"
    return _from(prompts, prompts.validation_data, prompts.train_seed)


def _training(record: RunRecord) -> str:
    config, distill = record.config, record.config.distill
    rollout, objective = config.rollout, distill.objective
    method = (
        f"Guided denoiser self-distillation ({PAPER}): the denoiser's scores (`{objective.readout}`) are regressed "
        "onto a copy of itself that the rewards' leave-one-out advantages guide, so that no likelihood is needed."
        if isinstance(objective, GdsdConfig)
        else f"By the objective `{objective.name}`, a rival of guided denoiser self-distillation ({PAPER})."
    )
    found = [f"The rollout engine: {plain(said)}."] if (said := record.drift()) is not None else []
    return " ".join(
        [
            f"{method} {len(record.epochs)} rounds of {rollout.prompts_per_round} problems with {rollout.group_size} "
            f"completions each, {distill.inner_steps} updates a round at a learning rate of {distill.learning_rate:g}.",
            *found,
            "`config.yaml` has every setting and `metrics.jsonl` every round.",
        ]
    )


def _use(record: RunRecord, origin: Provenance) -> str:
    protocol = record.trained.protocol
    settings = json.dumps({"sampler": protocol.sampler.model_dump(), "engine": protocol.engine.model_dump()})
    domain = make(record.config.prompts.domain)
    prompt = json.dumps(domain.phrase(domain.example.problem), ensure_ascii=False)
    # No character of a prompt or token ends the block of code, or the text that it is in.
    values = {"{protocol}": settings.replace("'", "\\u0027"), "{prompt}": prompt}
    code = re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], LOAD)
    return "\n".join(
        [
            _install(record, origin),
            "",
            "```python",
            code.replace("`", "\\u0060"),
            "```",
            "",
            "To evaluate it: `pyflyte run workflows/gdsd.py evaluate --policy FOLDER --config FILE`, a file that has "
            f"of `config.yaml` all of `evaluation` and of `prompts` {', '.join(TestConfig.model_fields)}.",
        ]
    )


def _install(record: RunRecord, origin: Provenance) -> str:
    """Says how to come by what runs the example."""
    address, source = record.config.publish.pipeline, origin.source
    made = "The example needs a checkout of the pipeline that made it, with its packages"
    if address is not None:
        at = "" if source is None else f" && git checkout {source.commit}"
        made += f" (`git clone {address} pipeline && cd pipeline{at} && make install`)"
    return (
        f"{made}. Save it as `example.py` beside this card, and run it there by "
        "`PYTHONPATH=CHECKOUT CHECKOUT/.venv/bin/python example.py`. No code is loaded from the policy's folder."
    )


def _limits(record: RunRecord) -> list[str]:
    config, trained = record.config, record.trained
    asked = plain(config.prompts.domain.name)
    others = [plain(guard.name) for guard in record.decision.guards]
    beside = f" and the guards {', '.join(others)}" if others else ""
    limits = [
        f"Only {asked} problems{beside} were asked. Nothing else was evaluated: no general ability, no other language, "
        "no safety, no bias, no memorised text. What training has made worse elsewhere is not known.",
        "The prompts were phrased in one way, and the answers sampled in one way; others were not tried.",
        "It is one run with one seed. The intervals are over problems, not over runs.",
        "The best round was chosen on the validation problems. The test problems were asked twice, of the base and of "
        "this policy; runs on a schedule ask the same ones every time.",
        "What counts as solved is what the checks of the domain accept. They cannot tell a right answer that was "
        "reached for a wrong reason.",
    ]
    if trained.judged < 1:
        limits.append(f"{1 - trained.judged:.1%} of its answers could not be judged.")
    if trained.truncated > 0:
        limits.append(f"{trained.truncated:.1%} of its answers ran out of tokens before they had the asked form.")
    if config.policy.adapter is not None and config.policy.adapter.base_bits is not None:
        limits.append(f"The adapter was trained and evaluated on a base of {config.policy.adapter.base_bits} bits.")
    if warnings := record.warnings():
        limits.append(f"Checks of the data warned: {'; '.join(map(plain, warnings))}.")
    return limits


def _licence(record: RunRecord) -> tuple[str, str]:
    """Returns the hub's name for the licence, and what is to be said of it."""
    given, source = record.config.publish.licence, record.config.policy.model
    if given is not None:
        return given, f"`{given}`, as whoever made this policy says."
    known = LICENCES.get(source.hub) if isinstance(source, HubModel) else None
    if known is not None:
        return known, f"`{known}`, the licence of the base. The data's licences may ask for more."
    base = "The base was made by the pipeline itself" if source is None else "The licence of the base is not known here"
    return UNKNOWN, (
        f"Unknown. {base}, and whoever made this policy has not said how it may be used (`publish.licence`). Ask "
        "before you use it."
    )


def _origin(record: RunRecord, policy: CheckpointRecord, origin: Provenance) -> str:
    source, seconds = record.config.policy.model, sum(record.stage_seconds().values())
    match source:
        case HubModel():
            base = f"{plain(source.hub)} at `{source.revision}`"
        case ModelFolder():
            base = f"a local model, SHA-256 `{source.sha256}`"
        case None:
            base = f"a tiny model that was made and warm-started here, seed {record.config.policy.seed}"
    if record.policy.parent is not None:
        base = f"an earlier policy of the pipeline, SHA-256 `{record.policy.parent}`; the configuration names {base}"
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in sorted(policy.made_with.items()))
    source_state = origin.source
    code = f"sources with SHA-256 `{origin.sources_sha256}`"
    if source_state is not None:
        code += f", commit `{source_state.commit}`{'' if source_state.clean else ' with changes'}"
    return "\n".join(
        f"- {line}"
        for line in (
            f"Base: {base}.",
            f"This checkpoint: SHA-256 `{origin.policy_sha256}`, {policy.updates} updates after its base. A run that "
            f"trains it further pins it as `{origin.policy_pin}`.",
            f"Code: {code}.",
            f"Made with {versions}.",
            f"Work: {seconds:.0f} s over all machines, without starts and transfers.",
            f"To repeat it, in a checkout of the code with the `config.yaml` beside this card: `{IN_CHECKOUT}`."
            if record.policy.parent is None
            else "To repeat it: `retrain` with the same configuration and `--kickoff_time`, from that policy.",
        )
    )
