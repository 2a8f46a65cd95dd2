"""What a stage imports: each of its pods does so before it works."""

import subprocess
import sys

import pytest

VERIFYING = (
    "denoiser.checkpoint_record",
    "evaluate.evaluation",
    "evaluate.gate",
    "prompts.quality",
    "reward.quality",
    "registry.registry",
    "report.model_card",
    "reward.rewards",
)
SAMPLING = ("denoiser.checkpoint", "evaluate.answering", "rollout.shard")
CONFIGURING = ("config.train", "domains.service")


@pytest.mark.parametrize(
    "modules, needless",
    [
        pytest.param(VERIFYING, {"torch", "transformers", "peft", "sympy"}, id="verdicts, the gate and publishing"),
        pytest.param(CONFIGURING, {"anyio", "httpx2"}, id="a configuration, which asks no server"),
        pytest.param(SAMPLING, {"peft"}, id="sampling without an adapter"),
    ],
)
def test_a_stage_imports_nothing_heavy_that_it_does_not_use(modules: tuple[str, ...], needless: set[str]) -> None:
    """If it fails, each pod of the stage takes seconds more before it works, as many times as there are rounds."""
    names = ", ".join(f"tasks.gdsd.{name}" for name in modules)
    code = f"import sys, {names}; print(*{needless} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
