"""The command that says what an experiment needs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks import describe
from tasks.gdsd.config.model_source import digest
from tests.gdsd.official import write_llada

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*_*.yaml"))


@pytest.mark.parametrize(
    "config", [path for path in RECIPES if "seeds:" not in path.read_text()], ids=lambda path: path.stem
)
def test_every_experiment_can_be_planned(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a person learns what a shipped experiment costs by paying for it."""
    assert describe.main([str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[0] for line in lines if line]
    assert {"weights", "gradients", "optimizer", "activations", "peak", "seconds", "hours"} <= set(words)


def hours(text: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith("hours")]
    return float(line.split()[4])


def test_it_says_whether_the_device_suffices_and_what_it_assumes(capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a model is sent to a GPU that cannot train it, or a guess is taken for a measurement."""
    recipe, found = str(ROOT / "configs/llada_gsm8k.yaml"), []
    for options in (["--device", "h200"], ["--device", "rtx4090"], ["--prompt-tokens", "123", "--device", "h200"]):
        assert describe.main([recipe, *options]) == 0
        found.append(capsys.readouterr().out)
    guessed, small, given = found
    assert "fits NVIDIA H200" in guessed and "exceeds NVIDIA RTX" in small
    assert "estimated from the domain's example; --prompt-tokens sets it" in guessed
    assert "at 45% of its peak, if every group carries a signal" in guessed and "at 1 GB/s" in guessed
    assert "prompts of 123 tokens (as given)" in given and hours(given) > hours(guessed)


def test_what_engines_change_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a plan hides what drift samples cost, or that completions which end early take less."""
    config = yaml.safe_load((ROOT / "configs/llada_gsm8k.yaml").read_text())
    del config["evaluation"]["sampler"]["stop_at_end"]
    said = "and no completion is over early"
    for stage, change, lines in (
        ("rollout", {}, (False, False)),
        ("rollout", {"engine": {"name": "dual_cache"}}, (True, False)),
        ("evaluation", {"engine": {"name": "threshold"}}, (False, True)),
        ("evaluation", {"sampler": config["evaluation"]["sampler"] | {"stop_at_end": True}}, (False, True)),
    ):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config | {stage: config[stage] | change}))
        assert describe.main([str(file)]) == 0
        found = capsys.readouterr().out
        assert ("seconds of drift" in found, said in found) == lines


def test_a_broken_config_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a typing error ends in a stack trace."""
    (tmp_path / "config.yaml").write_text("ronuds: 3\n")
    assert describe.main([str(tmp_path / "config.yaml")]) == 1
    assert "did you mean 'rounds'" in capsys.readouterr().err
    assert describe.main([str(tmp_path / "absent.yaml")]) == 1


def test_a_folder_is_pinned_by_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, nobody can name a model on a volume that only pods read, for want of the digest of its content."""
    write_llada(tmp_path / "model")
    file = tmp_path / "config.yaml"
    config = yaml.safe_load((ROOT / "configs/llada_gsm8k.yaml").read_text())
    file.write_text(yaml.safe_dump(config | {"policy": {"model": {"path": str(tmp_path / "model")}}}))
    assert describe.main([str(file)]) == 0
    said = f"model in {tmp_path / 'model'}, sha256: {digest(tmp_path / 'model')}"
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_it_needs_no_torch() -> None:
    """If it fails, a plan takes as long to print as a model to load, and not where torch is missing."""
    code = (
        "import sys, tasks.describe; tasks.describe.main(['configs/llada_gsm8k.yaml']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
