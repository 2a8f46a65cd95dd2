"""The command that says what an experiment needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks import capacity, describe
from tasks.gdsd.config.model_source import digest
from tasks.gdsd.planning.work import REACHED
from tests.gdsd.official import write_llada

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*_*.yaml"))
# Speeds of an H100 or H200.
HALF, FULL = f"{REACHED:.0%} of 989 TFLOP/s in bfloat16", f"{REACHED:.0%} of 67 TFLOP/s in float32"


@pytest.mark.parametrize("config", RECIPES, ids=lambda path: path.stem)
def test_every_experiment_can_be_planned(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a person learns what a shipped experiment or comparison costs by paying for it."""
    assert describe.main([str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[0] for line in lines if line]
    wanted = {"weights", "gradients", "optimizer", "activations", "peak", "seconds"}
    if "seeds:" in config.read_text():
        wanted = {*yaml.safe_load(config.read_text())["contestants"]}
    assert wanted | {"fits", "hours"} <= set(words)


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
    assert "a round, if every group carries a signal" in guessed and "at 1 GB/s" in guessed
    assert "prompts of 123 tokens (as given)" in given and hours(given) > hours(guessed)


def shares(text: str, kind: str) -> tuple[list[float], str]:
    """The shares of rollout and distill in a kind of products, and the speed that is assumed of it."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"  in the {kind} ")]
    numbers, speed = line.split("   of these seconds, at ")
    return [float(share.rstrip("%")) for share in numbers.split()[-2:]], speed


def test_how_seconds_follow_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, nobody sees that logits in float32 take as long as ten times as many products of the network.

    A look at 340 tokens of LLaDA, 84 of them the prompt, is 2 x 6.98e9 x 340 products of maps, 2 x 0.31e9 x 340 of the
    adapter beside them, and 4 x 340^2 x 4096 x 32 of attention: 5.0e12, so 5.1 ms at 989e12 a second. It ends in logits
    of 17 rows on average, 2 x 126464 x 4096 x 17 = 17.6e9, 0.26 ms at 67e12.
    """
    recipe = ROOT / "configs/llada_gsm8k.yaml"
    assert describe.main([str(recipe), "--device", "h200"]) == 0
    text = capsys.readouterr().out
    assert "llada, 8,015,581,184 parameters, and 335,544,320 of an adapter, which alone are trained" in text
    network, logits = shares(text, "network"), shares(text, "logits")
    assert (
        network[1] == f"{REACHED:.0%} of 989 TFLOP/s in bfloat16"
        and logits[1] == f"{REACHED:.0%} of 67 TFLOP/s in float32"
    )
    assert logits[0][0] == pytest.approx(100 * 0.26 / (0.26 + 5.1), abs=0.2)
    assert [one + other for one, other in zip(network[0], logits[0], strict=True)] == pytest.approx(
        [100, 100], abs=0.11
    )
    assert "in the adapter" not in text, "it is in the network's precision"

    config = yaml.safe_load(recipe.read_text())
    config["distill"]["compute"]["precision"] = "float32"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert describe.main([str(tmp_path / "config.yaml"), "--device", "h200"]) == 0
    (rollout, distill), speed = shares(capsys.readouterr().out, "adapter")
    assert rollout == 0 and distill > 10 and speed == FULL

    (tmp_path / "config.yaml").write_text("distill: {compute: {precision: bfloat16}}\n")
    assert describe.main([str(tmp_path / "config.yaml"), "--device", "h200"]) == 0
    assert shares(capsys.readouterr().out, "network")[1] == (f"{FULL}, {HALF} in training")


def test_a_comparison_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a comparison is taken for a mistyped experiment, or its cost is that of one run."""
    recipe = str(ROOT / "configs/compare_tiny.yaml")
    assert describe.main([recipe, "--device", "h100"]) == 0
    said = capsys.readouterr().out
    assert "256 completions a round, 32 rounds a run, 48 runs" in said and FULL in said
    rows = [line.split() for line in said.splitlines() if line.endswith("     8")]
    assert [row[0] for row in rows] == ["gdsd", "gdsd_tlc", "espo", "spg", "wd1", "diffu_grpo"]
    # Tries answer 256 validation problems each time, and the others 512 test problems, so they are a little cheaper.
    most = sum(8 * float(row[5]) for row in rows)
    assert 0.9 * most < float(said.splitlines()[-1].split()[4]) < 1.05 * most
    assert capacity.main([recipe]) == 1
    assert "is a comparison, whose runs are independent" in capsys.readouterr().err


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


def test_both_ways_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a person pays for a pod and a load for each stage of each round, and never learns of it."""
    recipe, prices = str(ROOT / "configs/llada_gsm8k.yaml"), []
    for role, price in {"rollout": 1, "distill": 3, "evaluation": 3}.items():
        prices += ["--set", f"hardware.{role}.price={price}"]
    one = ["--set", "distill.compute.processes=1"]
    found = []
    for options in ([], [*one, "--set", "rounds_per_task=1"], [*one, *prices]):
        assert describe.main([recipe, *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        found.append(lines[next(index for index, line in enumerate(lines) if line.startswith("on a cluster")) :])
    shipped, alone, priced = found
    (shown,) = re.findall(r"```\n(on a cluster.*?)\n```", (ROOT / "docs/hardware.md").read_text(), re.DOTALL)
    assert "\n".join(shipped[:-1]) == shown, "docs/hardware.md has another plan"
    assert "27 s (15 of its start, 12 of imports) and 1000 answers are judged a second" in shipped[-1]
    assert shipped[2].startswith("resident (configured)") and alone[1].startswith("staged (configured)")
    assert "cheaper: resident, by 16.5 device-hours (21%); it takes 1.9 times as long by the clock" in alone
    # Of rollouts on GPUs that cost a third, staged rounds are the cheaper ones.
    assert priced[3].startswith("cheaper: staged, by ") and " of money " in priced[3]
    assert float(priced[1].split()[3]) < float(priced[2].split()[4])
    # 320 answers at one a second are 320 s of each of 150 rounds, in which 4 GPUs wait: 53 hours.
    assert describe.main([recipe, "--verdicts", "1"]) == 0
    judged = capsys.readouterr().out.splitlines()
    assert judged[-1].endswith("1 answers are judged a second") and judged[-2].startswith("cheaper: staged, by ")
    assert float(judged[-3].split()[10]) == pytest.approx(4 * 320 * 150 / 3600, abs=0.1)
    with pytest.raises(SystemExit):
        describe.main([recipe, "--verdicts", "0"])
    assert describe.main([str(ROOT / "configs/llada_code.yaml")]) == 0
    assert "resident              impossible   code is run in isolation" in capsys.readouterr().out


def test_a_broken_config_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a typing error ends in a stack trace."""
    (tmp_path / "config.yaml").write_text("ronuds: 3\n")
    assert describe.main([str(tmp_path / "config.yaml")]) == 1
    assert "did you mean 'rounds'" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("seeds: [1]\ndistill: {}\n")
    assert describe.main([str(tmp_path / "config.yaml")]) == 1
    assert "did you mean 'seed'" in capsys.readouterr().err
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


FROM_DATA = ["--set", "policy.tiny.alphabet=from_data"]


def test_a_field_may_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a plan is that of the file, and not of what will be run."""
    smoke = str(ROOT / "configs/smoke.yaml")
    found = []
    for options in ([], ["--set", "rollout.group_size=8", "--set", "name=larger", *FROM_DATA]):
        assert describe.main([smoke, "--device", "h100", *options]) == 0
        found.append(capsys.readouterr().out)
    assert "smoke: tiny" in found[0] and "larger: tiny" in found[1] and found[0] != found[1]
    assert "with the plain alphabet" in found[1] and "alphabet" not in found[0]
    assert describe.main([smoke, "--set", "rollout.group_sise=8"]) == 1
    assert "did you mean 'group_size'?" in capsys.readouterr().err
    assert describe.main([smoke.replace("smoke", "smole")]) == 1
    assert "did you mean" in capsys.readouterr().err
