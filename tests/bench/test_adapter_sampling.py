"""What is left of an adapter's effect when a policy in bfloat16 samples, and what that costs.

python -m pytest -m slow -s tests/bench/test_adapter_sampling.py

A random model of a published layout, 4 blocks of width 256, whose adapter adds random matrices of a given size relative
to the weights. The effect of the adapter on the logits of 1024 tokens is compared with that of the same weights and
adapter in float32: `share` is the part along it, in which rounding that has no direction averages out; `error` is the
distance, all rounding counted. Merged: added to the weights. Beside, float32: peft's own sum, a rounded W x plus B A x.
Beside, bfloat16: the same with a rounded adapter. Trained, and frozen by `Denoiser.freeze_for_sampling`: one sum of
both products. Half an ulp of bfloat16 is 0.002 to 0.004 of a number.

Seconds are of a forward pass in float32, the median of several that take turns: bfloat16 on a CPU says
nothing of a GPU.
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tasks.gdsd.denoiser.denoiser import Denoiser
from tests.bench.harness import in_turns, show
from tests.gdsd import official
from tests.gdsd.checkpoints import edit_tensors
from tests.gdsd.denoiser import test_exact_sum
from tests.gdsd.denoiser.test_exact_sum import FORMS, IDS, adapted, layers, surviving

WIDTH, RANK, REPETITIONS = 256, 16, 7
RATIOS = (0.0003, 0.001, 0.003, 0.01, 0.03)


def rounded(denoiser: Denoiser) -> None:
    """Casts the adapter to the precision of the base and leaves it beside, as peft adds it."""
    FORMS["added"](denoiser)
    for layer in layers(denoiser).values():
        dtype = layer.get_base_layer().weight.dtype
        layer.lora_A.to(dtype)
        layer.lora_B.to(dtype)


def write(folder: Path, name: str) -> None:
    """Writes a model whose maps keep the size of what goes through them."""
    official.WRITERS[name](folder, dtype=torch.bfloat16)
    factor = (32 / WIDTH) ** 0.5  # the writers' weights are drawn for width 32
    edit_tensors(
        folder / "model.safetensors", lambda found: [part.mul_(factor) for part in found.values() if part.ndim > 1]
    )


@torch.no_grad()
def seconds(model: Path) -> dict[str, float]:
    """Median seconds of a forward pass, as trained and frozen."""
    policies = {name: adapted(model, torch.float32, 0.01, RANK) for name in ("as trained", "frozen")}
    policies["frozen"].freeze_for_sampling()
    taken = in_turns({name: partial(policy, IDS.repeat(16, 1)) for name, policy in policies.items()}, REPETITIONS)
    return {name: statistics.median(times) for name, times in taken.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_what_is_left_of_an_adapter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of docs/models.md on how a policy with an adapter samples."""
    for size, value in {"WIDTH": WIDTH, "INNER": 3 * WIDTH, "LAYERS": 4, "HEADS": 8}.items():
        monkeypatch.setattr(official, size, value)
    ids = torch.randint(10, 260, (16, 64), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(test_exact_sum, "IDS", ids)
    write(tmp_path / "model", name)
    forms: dict[str, Callable[[Denoiser], None]] = {
        "merged": FORMS["merged"],
        "beside, bfloat16": rounded,
        "beside, float32": FORMS["added"],
        "trained": FORMS["as trained"],
        "frozen": FORMS["frozen"],
    }
    monkeypatch.setattr(test_exact_sum, "FORMS", forms)
    rows = {ratio: {form: surviving(tmp_path / "model", form, ratio, RANK) for form in forms} for ratio in RATIOS}
    kept = {
        f"{ratio} of the weights": {f"{form}: share": share for form, (share, _) in row.items()}
        | {f"{form}: error": error for form, (_, error) in row.items()}
        for ratio, row in rows.items()
    }
    show(f"{name}, width {WIDTH}, rank {RANK}", kept)
    show(f"{name}, a forward pass", {"seconds": seconds(tmp_path / "model")})
    for ratio in RATIOS[:2]:
        least = rows[ratio]["frozen"][0]
        assert all(row[0] < least for form, row in rows[ratio].items() if form not in ("trained", "frozen"))
    assert all(row["frozen"] == row["trained"] and abs(row["frozen"][0] - 1) < 0.3 for row in rows.values())
