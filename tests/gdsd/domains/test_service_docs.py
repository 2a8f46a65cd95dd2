"""The page of rewards by HTTP: its program serves, its configurations train, and its class asks."""

import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from tasks.gdsd import tables
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains import Answer, Domain
from tasks.gdsd.domains.service import OpenaiConfig, ServiceConfig
from tasks.gdsd.prompts import problems
from tasks.gdsd.prompts.quality import check_prompts
from tasks.gdsd.reward import rewards
from tasks.gdsd.reward.quality import check_rewarded
from tests.gdsd import series
from tests.workflows.conftest import run_in_process

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/domains/service.md").read_text()
PROGRAM, OWN = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
BACKWARDS, JUDGE = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's program, serving."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = tmp_path_factory.mktemp("server") / "reward_server.py"
    file.write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, str(file), str(port)], stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def words(file: Path, last: str, rows: int) -> None:
    """Writes words of six letters, of which this is the last, and what they are backwards."""
    source = random.Random(last)
    drawn = dict.fromkeys("".join(source.choices("abcdefghij", k=5)) + last for _ in range(rows))
    file.write_text("problem,reference\n" + "".join(f"{word},{word[::-1]}\n" for word in drawn))


def configured(url: str, folder: Path) -> dict[str, dict[str, object]]:
    """The page's configuration with this server and with files that are there."""
    config = json.loads(json.dumps(BACKWARDS).replace("http://localhost:8000", url))
    for split, last in (("train", "k"), ("test", "l")):
        words(folder / f"{split}.csv", last, 200)
        assert config["prompts"][f"{split}_data"] == {"path": f"{split}.csv"}
        config["prompts"][f"{split}_data"]["path"] = str(folder / f"{split}.csv")
    return config


def test_the_example_goes_from_problems_to_advantages(url: str, tmp_path: Path) -> None:
    """If it fails, who follows the page gets an error, or other rewards than the program's."""
    config = TrainConfig.model_validate_json(json.dumps(configured(url, tmp_path)))
    made = problems.make_prompts(config.prompts)
    check_prompts(made, config.prompts).require()
    problems.check_problems(config.prompts, made)
    rows = [
        series.rollout(prompt_id=row["id"], sample=sample, problem=row["problem"], reference=row["reference"])
        | {"completion": (row["reference"], row["problem"], row["reference"][:2], "")[sample]}
        for row in made["train"].slice(0, 8).to_pylist()
        for sample in range(4)
    ]
    rewarded = rewards.reward(pa.Table.from_pylist(rows, tables.ROLLOUTS), config.prompts.domain, 4, scale_by_std=False)
    check_rewarded(rewarded, 4, config.prompts.domain).require()
    assert rewarded["reward"].to_pylist()[::4] == [1.0] * 8 and rewarded["reward"].to_pylist()[3::4] == [0.0] * 8
    assert rewarded["reward"].to_pylist()[2::4] == pytest.approx([0.5] * 8)  # two of six letters, twice, of eight
    assert rewarded["solved"].to_pylist() == [True, False, False, False] * 8


@pytest.mark.parametrize("policy", [None, *re.findall(r"`policy: (\{.*?)`", PAGE)])
def test_the_judge_of_the_page_is_asked_as_it_says(
    policy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, who copies the judge is refused, or the judge sees no answer."""
    written = JUDGE | ({} if policy is None else {"policy": yaml.safe_load(policy)})
    monkeypatch.chdir(tmp_path)
    for name in ("topics.csv", "more_topics.csv"):
        Path(name).write_text("problem\n" + "".join(f"{name[:4]} {row}\n" for row in range(500)))
    whole = TrainConfig.model_validate_json(json.dumps(written))
    assert set(problems.make_prompts(whole.prompts)["train"]["reference"].to_pylist()) == {""}
    config = whole.prompts.domain.root
    assert isinstance(config, ServiceConfig) and isinstance(config.server, OpenaiConfig)
    assert config.server.template.count("{answer}") == 1 and (config.server.low, config.server.high) == (0.0, 10.0)


def test_the_class_of_the_page_asks_the_program(url: str) -> None:
    """If it fails, a domain of one's own cannot use a server as the page says."""
    defined: dict[str, object] = {}
    exec(compile(OWN, "the page", "exec"), defined)
    brief = defined["Brief"]
    assert isinstance(brief, type) and issubclass(brief, Domain)
    domain = brief(url)  # type: ignore[call-arg]  # the options are the class's own
    first, second = domain.verify_all([Answer("ab", "ba", "ba"), Answer("ab", "", "b" * 20)])
    assert (first.parts, first.solved) == ({"liked": 1.0, "short": 1.0}, True)
    assert (second.parts, second.solved) == ({"liked": None, "short": 0.0}, False)
    assert domain.verify(*domain.example).solved


@pytest.mark.whole
def test_the_example_trains(url: str, tmp_path: Path) -> None:
    """If it fails, a reward by HTTP works in a notebook, but not in the pipeline."""
    config = configured(url, tmp_path)
    config["prompts"] |= {"train_size": 24, "validation_size": 8, "test_size": 8}
    config["rollout"] |= {"prompts_per_round": 4, "group_size": 4}
    small: dict[str, object] = {"rounds": 2, "policy": {"warm_start": {"steps": 20, "batch_size": 8}}}
    home = tmp_path / "home"
    done = run_in_process("run", "workflows/gdsd.py", "train", "--config", json.dumps(config | small), home=home)
    assert done.code == 0, done.text
    report = next(line.split(None, 1)[1] for line in done.text.splitlines() if line.startswith("report "))
    assert url not in Path(report).read_text() and url in (Path(report).parent / "config.yaml").read_text()
    metrics = [json.loads(line) for line in (Path(report).parent / "metrics.jsonl").read_text().splitlines()]
    assert any(row.get("reward/mean", 0.0) > 0 for row in metrics)
    domain = config["prompts"]["domain"]
    assert isinstance(domain, dict)
    domain["server"] |= {"seconds": 300.0, "attempts": 2}
    done = run_in_process("run", "workflows/gdsd.py", "train", "--config", json.dumps(config | small), home=home)
    assert done.code == 0, done.text
    assert "from the cache: policy, 3 evaluations, rounds 1 to 2" in done.text
