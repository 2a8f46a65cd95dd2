"""The model card: read by the hub's own library, rendered by a Markdown parser, and its example run."""

import ast
import html as escapes
import json
import re
import runpy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.prompts import HubDataset, TestConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser import checkpoint, checkpoint_record
from tasks.gdsd.denoiser.checkpoint_record import CheckpointRecord
from tasks.gdsd.report import model_card
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.report.records import HOSTILE, ORIGIN, evaluated, guard, record, repeatedly

POLICY = CheckpointRecord(
    family="llada",
    round=2,
    updates=3,
    skipped_in_a_row=0,
    adapter=True,
    parent=None,
    made_with={"torch": "2.13.0"},
)
REVISION = "c" * 40


def configured(**changed: object) -> RunRecord:
    """The run of the report's tests, under another configuration."""
    config = TrainConfig.model_validate_json(json.dumps({"name": "a-run", "rounds": 2} | changed))
    return record(config=config)


def published(hub: str = "GSAI-ML/LLaDA-8B-Instruct", **changed: object) -> RunRecord:
    return configured(policy={"model": {"hub": hub, "revision": REVISION}, "adapter": {}}, **changed)


def text(run: RunRecord, policy: CheckpointRecord = POLICY) -> str:
    return model_card.write(run, policy, ORIGIN)


def html(run: RunRecord) -> str:
    return MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(ModelCard(text(run)).text)


def test_the_hub_reads_what_the_card_says() -> None:
    """If it fails, the hub shows a model without base, licence or results, or refuses the card."""
    source = HubDataset(hub="openai/gsm8k", subset="main", split="test", revision=REVISION)
    run = published(
        prompts={
            "domain": {"name": "gsm8k"},
            "train_data": source.model_dump() | {"split": "train"},
            "validation_data": source.model_dump() | {"split": "train[:100]"},
            "test_data": source.model_dump(),
        }
    )
    run = run.model_copy(update={"trained": repeatedly(run.trained, 0.875)})
    data = ModelCard(text(run)).data
    assert (data.license, data.base_model) == ("mit", "GSAI-ML/LLaDA-8B-Instruct")
    assert data["base_model_relation"] == "adapter"
    assert (data.datasets, data.pipeline_tag, data.library_name) == (["openai/gsm8k"], "text-generation", "gdsd")
    assert {"masked-diffusion", "llada", "lora"} <= set(data.tags)
    solved, passed = data.eval_results
    assert (solved.metric_type, solved.metric_value, passed.metric_value) == ("accuracy", 70.0, 87.5)
    assert (solved.dataset_type, solved.dataset_config, solved.dataset_split) == ("openai/gsm8k", "main", "test")
    assert solved.dataset_revision == REVISION and data.model_name == "a-run"


@pytest.mark.parametrize(
    ("run", "licence", "words"),
    [
        (published(), "mit", "the licence of the base"),
        (published("somebody/else"), "other", "Unknown. The licence of the base is not known here"),
        (configured(), "other", "Unknown. The base was made by the pipeline itself"),
        (published("somebody/else", publish={"licence": "cc-by-4.0"}), "cc-by-4.0", "as whoever made this policy says"),
    ],
)
def test_the_licence_is_the_base_s_the_owner_s_or_unknown(run: RunRecord, licence: str, words: str) -> None:
    """If it fails, somebody is told that a policy may be used in a way that nobody has allowed."""
    card = ModelCard(text(run))
    assert card.data.license == licence and words in card.text
    assert (card.data.license_name == "unknown") is (licence == "other")


def test_numbers_stand_with_their_intervals_protocol_and_limits() -> None:
    """If it fails, the card promises more than was measured, or nobody can repeat it."""
    run = record(decision=record().decision.model_copy(update={"promoted": False, "guards": [guard("older", False)]}))
    run = run.model_copy(update={"policy": run.policy.model_copy(update={"parent": "d" * 64})})
    config = run.config.model_copy(
        update={"judge": run.config.judge.model_copy(update={"guards": {"older": TrainConfig().prompts}})}
    )
    page = text(run.model_copy(update={"config": config}))
    for words in (
        "| solved, % | 30.0 % (",
        "+40.0 (+10.0 to +70.0) |",
        "was **not** promoted by the gate",
        "10 sudoku problems, each answered once; 16 tokens in blocks of 16, 8 steps a block, temperature 0, seed 0",
        "| older | 10 sudoku |",
        "| fails |",
        f"| test | 10 | generated, seed 0 | `{'0' * 64}` |",
        "arxiv.org/abs/2605.29398",
        "Only sudoku problems and the guards older were asked. Nothing else was evaluated",
        "12.5% of its answers could not be judged",
        "37.5% of its answers ran out of tokens",
        "It is one run with one seed",
        f"an earlier policy of the pipeline, SHA-256 `{'d' * 64}`",
        f"SHA-256 `{ORIGIN.policy_sha256}`",
        f"pins it as `{ORIGIN.policy_pin}`",
        f"SHA-256 `{ORIGIN.sources_sha256}`",
        "2 rounds of 112 problems with 4 completions each",
    ):
        assert words in page, words
    rival = text(configured(distill={"objective": {"name": "espo"}}))
    assert "By the objective `espo`, a rival of" in rival and "are regressed" not in rival


def said_everywhere(words: str) -> RunRecord:
    """A run with words of somebody else's in every place that there is for them."""
    run = record()
    source = HubDataset(hub="a/b", subset=words, split=words, revision=REVISION)
    prompts = run.config.prompts.model_copy(update={"train_data": source, "test_data": source})
    return run.model_copy(
        update={
            "config": run.config.model_copy(update={"prompts": prompts}),
            "prompts": run.prompts.model_copy(update={"warnings": [words]}),
            "decision": run.decision.model_copy(update={"reason": words}),
        }
    )


@pytest.mark.parametrize(
    "hostile",
    [
        HOSTILE,
        "[click](javascript:alert(1)) ![x](https://evil.example/x.png) <https://evil.example> www.evil.example",
        "a | b\n\n---\nlicense: mit\n---\n# Title\n\n```\ncode\n- list\n1. item",
        "**bold** _it_ `code` ~~gone~~ &lt;b&gt; &#60;i&#62; \\<u> \u202etxet\u200b",
    ],
)
def test_hostile_texts_stay_texts(hostile: str) -> None:
    """If it fails, whoever names a data set or a column puts a script, a link or a licence into the card."""
    run = said_everywhere(hostile)
    shown, tags = html(run), re.compile(r"<(/?[a-z0-9]+)")
    assert tags.findall(shown) == tags.findall(html(said_everywhere("words")))
    assert not re.findall(r"href=\"(?!https://arxiv\.org/)", shown)
    data = ModelCard(text(run)).data
    assert data.license == "other" and data.datasets == ["a/b"]
    assert "\u202e" not in text(run) and "\u200b" not in text(run)
    seen = MarkdownIt("commonmark").render(model_card.plain(hostile))
    assert " ".join("".join(letter for letter in hostile if letter not in "\u202e\u200b").split()) == unescaped(seen)


def unescaped(page: str) -> str:
    """What a person reads of a page that is one paragraph."""
    found = re.fullmatch(r"<p>(.*)</p>\n", page)
    assert found is not None and "<" not in found[1], page
    return escapes.unescape(found[1])


def test_the_example_of_the_card_samples_the_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, nobody but us can use what we publish."""
    from tasks.gdsd.config.policy import TinyModelConfig
    from tasks.gdsd.denoiser import tiny
    from tests.gdsd.checkpoints import trained

    denoiser = tiny.build(TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2), 0)
    checkpoint.save(tmp_path / "policy", trained(denoiser))
    page = text(record(), checkpoint_record.read_record(tmp_path / "policy"))
    (tmp_path / "policy" / "README.md").write_text(page)
    (code,) = re.findall(r"```python\n(.*?)\n```", page, re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))
    assert len(capsys.readouterr().out.strip()) > 4
    assert "`PYTHONPATH=CHECKOUT CHECKOUT/.venv/bin/python example.py`" in page


def test_the_card_s_way_to_score_the_policy_asks_the_run_s_problems() -> None:
    """If it fails, whoever follows the card scores the policy on the default Sudoku, whatever it was trained for."""
    run = configured(prompts={"domain": {"name": "countdown"}, "test_size": 64}, evaluation={"shards": 2})
    (said,) = re.findall(r"^To evaluate it.*$", text(run), re.M)
    assert "--policy FOLDER --config FILE" in said
    whole = run.config.model_dump(mode="json")
    prompts = {name: whole["prompts"][name] for name in re.search(r"of `prompts` (.*)\.$", said)[1].split(", ")}  # type: ignore[index]  # None fails
    rewarded = EvaluateConfig.model_validate_json(json.dumps({"prompts": prompts, "evaluation": whole["evaluation"]}))
    assert rewarded.evaluation == run.config.evaluation and rewarded.prompts.domain == run.config.prompts.domain
    assert {*TestConfig.model_fields} == {*prompts}


def test_prompts_and_tokens_cannot_leave_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a domain's example puts code of its own where a reader copies ours."""
    from tasks.gdsd.domains.sudoku import Sudoku

    nasty = "'''\n```\n\"\"\" + __import__('os').system('id') # \\ {protocol} 🙂"
    banned, run = ["'", "```", "\\", "{prompt}"], record()
    monkeypatch.setattr(Sudoku, "phrase", lambda self, problem: nasty)
    report = evaluated(2, 7)
    sampler = report.protocol.sampler.model_copy(update={"ban": banned})
    protocol = report.protocol.model_copy(update={"sampler": sampler})
    page = text(run.model_copy(update={"trained": report.model_copy(update={"protocol": protocol})}))
    (code,) = re.findall(r"```python\n(.*?)\n```", page, re.S)
    texts = [str(node.value) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert nasty in texts
    (written,) = [found for found in texts if found[:1] == "{"]
    assert json.loads(written)["sampler"]["ban"] == banned
