"""A base of 4 bits under an adapter: near the base, frozen, never whole in memory, and the same wherever it is read."""

import copy
import json
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.train import AdapterConfig, PolicyConfig, TrainConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.four_bits import BITS, LEVELS, FourBitLinear, quantise, weights
from tasks.gdsd.errors import CheckpointError, ConfigError
from tasks.gdsd.planning.plan import plan
from tasks.gdsd.planning.shapes import shape_of
from tests.gdsd.checkpoints import CPU, edit_json
from tests.gdsd.epochs import configured, run, scored
from tests.gdsd.official import LAYERS, WRITERS, write_llada, write_qwen3_mdlm

IDS = torch.randint(10, 260, (2, 16), generator=torch.Generator().manual_seed(0))
ADAPTER = AdapterConfig(rank=4, alpha=6.0, base_bits=4)


def loaded(model: Path, dtype: torch.dtype = torch.float32) -> Denoiser:
    return Denoiser.from_source(ModelFolder(path=str(model)), CPU, dtype, bits=4)


def adapted(model: Path, size: float = 0.3) -> Denoiser:
    """A policy whose adapter is not 0."""
    denoiser = loaded(model)
    denoiser.attach_adapter(ADAPTER, seed=0)
    for name, parameter in denoiser.trainable():
        if ".lora_B." in name:
            parameter.data.normal_(std=size, generator=torch.Generator().manual_seed(len(name)))
    return denoiser


def read(denoiser: Denoiser) -> Tensor:
    return denoiser.head().logits(denoiser(IDS))


def state(denoiser: Denoiser) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}


@pytest.fixture(params=WRITERS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    WRITERS[request.param](tmp_path / "model", shards=2)
    return tmp_path / "model"


# Arithmetic


def test_levels_are_quantiles_of_a_normal_distribution() -> None:
    """If it fails, the levels are not NF4's: 8 quantiles above 0 and 7 below it, evenly spaced in probability.

    The outermost probability leaves half of a step of 1 / 16 and of 1 / 15, on average, on either side, and the largest
    quantile counts as 1 (arXiv 2305.14314, section 3).
    """
    outer = 1 - (1 / 32 + 1 / 30) / 2
    above, below = (torch.special.ndtri(torch.linspace(outer, 0.5, n, dtype=torch.float64)) for n in (9, 8))
    levels = torch.cat([-below, above[:-1].flip(0)]) / above[0]
    torch.testing.assert_close(levels.float(), torch.tensor(LEVELS), atol=2e-4, rtol=0)


def test_a_block_is_the_nearest_levels_times_its_largest_magnitude() -> None:
    """If it fails, weights are read as others: in the wrong order, of another block, or rounded past a nearer one."""
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    weight[4:6] = 0  # a block of its own, which has no scale
    found = FourBitLinear(torch.nn.Linear(1, 1, bias=False), weight).dense()
    levels = torch.tensor(LEVELS)
    for block, dense in zip(weight.view(-1, 64), found.view(-1, 64), strict=True):
        scale = block.abs().max().bfloat16().float()
        nearest = (block[:, None] - levels * scale).abs().argmin(1)
        torch.testing.assert_close(dense, levels[nearest] * scale)
    packed, scales = quantise(weight)
    assert 8 * (packed.nbytes + scales.nbytes) == BITS * weight.numel() == 4.25 * 48 * 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_dense_weights(dtype: torch.dtype) -> None:
    """If it fails, what is trained on top follows the gradient of another map."""
    linear = torch.nn.Linear(32, 48)
    layer = FourBitLinear(linear.to(dtype), torch.randn(48, 32).to(dtype))
    x, y = (torch.randn(2, 5, 32).to(dtype).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    found, expected = layer(x), torch.nn.functional.linear(y, layer.dense()) + linear.bias
    assert torch.equal(found, expected) and found.dtype == dtype
    found.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(x.grad, y.grad)


def test_no_dense_weight_waits_for_the_backward_pass() -> None:
    """If it fails, a base of 4 bits takes more memory in training than one of 16."""
    layer = FourBitLinear(torch.nn.Linear(1, 1, bias=False), torch.randn(64, 64))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        out = layer(torch.randn(3, 64, requires_grad=True))
    assert not kept and out.requires_grad


# The base


def test_logits_are_near_those_of_the_whole_base(model: Path) -> None:
    """If it fails, a base of 4 bits is another model.

    Normal weights are 9 % from the levels (root mean square), and nothing else differs. What that makes of the logits
    depends on the model: these large random weights make much of it, below 70 % of their size.
    """
    whole, near = Denoiser.from_source(ModelFolder(path=str(model)), CPU, torch.float32), loaded(model)
    with torch.no_grad():
        exact = read(whole)
        assert 0.02 < (read(near) - exact).norm() / exact.norm() < 0.7
        maps = {name: part for name, part in near.network.named_modules() if isinstance(part, FourBitLinear)}
        assert len(maps) == 7 * LAYERS and all(name.startswith("model.layers.") for name in maps)
        assert weights(near) == sum(parameter.numel() for parameter in whole.parameters())
        for name, part in maps.items():
            weight = whole.network.get_submodule(name).get_parameter("weight")
            assert (part.dense() - weight).norm() / weight.norm() < 0.1
            weight.copy_(part.dense())
        torch.testing.assert_close(read(near), read(whole), atol=1e-4, rtol=1e-4)


def test_only_one_weight_at_a_time_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a model that fits in 4 bits does not load: its weights are all read before they are quantised."""
    write_qwen3_mdlm(tmp_path / "model")
    begin, read_so_far, alive = FourBitLinear.__init__, [], []

    def count(layer: FourBitLinear, linear: torch.nn.Linear, weight: Tensor) -> None:
        alive.append(sum(before() is not None for before in read_so_far))
        read_so_far.append(weakref.ref(weight))
        begin(layer, linear, weight)

    monkeypatch.setattr(FourBitLinear, "__init__", count)
    loaded(tmp_path / "model")
    assert alive == [0] * 7 * LAYERS


def test_a_map_that_fills_no_blocks_is_refused() -> None:
    """If it fails, the last weights of a map are those of another, or the load ends in an error of torch."""
    with pytest.raises(CheckpointError, match=r"3 x 5 weights does not fill blocks of 64.*base_bits"):
        FourBitLinear(torch.nn.Linear(5, 3, bias=False), torch.zeros(3, 5))


def test_tiny_models_keep_their_weights(denoiser: Denoiser, tmp_path: Path) -> None:
    """If it fails, a tiny base is saved in a form that nothing reads."""
    denoiser.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"tiny model.*leave base_bits out"):
        loaded(tmp_path)


# Training


@pytest.mark.parametrize("compute", [{}, {"gradient_checkpointing": True, "precision": "bfloat16"}], ids=str)
def test_an_epoch_changes_the_adapter_alone(compute: dict[str, object], tmp_path: Path) -> None:
    """If it fails, a base of 4 bits cannot be trained on, or drifts."""
    write_llada(tmp_path / "model")
    start = checkpoint.base_state(adapted(tmp_path / "model", size=0.01))
    table = scored(start.denoiser)
    config = configured({"reference_weight": 0.5})
    config = config.model_copy(update={"compute": config.compute.model_copy(update=compute)})
    before = state(start.denoiser)
    after = state(run(start, table, config)[0].denoiser)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name, _ in start.denoiser.trainable()}


def test_weights_of_4_bits_are_not_trained(tmp_path: Path) -> None:
    """If it fails, full fine-tuning runs on packed weights, or an adapter says that its base is another than it is."""
    write_llada(tmp_path / "model")
    denoiser = loaded(tmp_path / "model")
    with pytest.raises(ValueError, match="weights of 4 bits cannot be trained"):
        denoiser.trainable()
    with pytest.raises(ValueError, match="read with base_bits 4, but the adapter says None"):
        denoiser.attach_adapter(AdapterConfig(), seed=0)
    whole = Denoiser.from_source(ModelFolder(path=str(tmp_path / "model")), CPU)
    with pytest.raises(ValueError, match="read with base_bits None, but the adapter says 4"):
        whole.attach_adapter(ADAPTER, seed=0)


# At rest


def test_sampling_and_the_next_round_read_the_same_base(model: Path, tmp_path: Path) -> None:
    """If it fails, rollouts and evaluations are on the whole base, on which the adapter was not trained."""
    denoiser = adapted(model)
    folder = checkpoint.save(tmp_path / "policy", checkpoint.base_state(denoiser))
    assert json.loads((folder / "base.json").read_text())["bits"] == 4 and not list(folder.glob("model*"))
    again = checkpoint.load(folder, CPU)
    with torch.no_grad():
        assert torch.equal(read(again.denoiser), read(denoiser))
        with again.denoiser.base_only():
            assert torch.equal(read(again.denoiser), read(loaded(model)))
    copied = checkpoint.save(tmp_path / "again", again)
    assert (copied / "base.json").read_bytes() == (folder / "base.json").read_bytes()
    edit_json(folder / "base.json", bits=8)
    with pytest.raises(CheckpointError, match=r"base\.json is damaged"):
        checkpoint.load(folder, CPU)


def test_the_form_for_sampling_is_the_same_policy(model: Path) -> None:
    """If it fails, rollouts are of another policy than the one that is trained."""
    denoiser = adapted(model)
    with torch.no_grad():
        before = read(denoiser)
        frozen = copy.deepcopy(denoiser)
        frozen.freeze_for_sampling()
        torch.testing.assert_close(read(frozen), before, atol=1e-4, rtol=1e-4)
        with denoiser.base_only():
            assert (read(denoiser) - before).abs().max() > 0.5, "the adapter matters, so the test means something"


# The plan


def test_the_plan_counts_packed_weights(tmp_path: Path) -> None:
    """If it fails, a run that fits a device in 4 bits is planned for a larger one, or the other way round."""
    write_llada(tmp_path / "model")
    values = {"model": {"path": str(tmp_path / "model")}, "adapter": {"rank": 4}}
    whole = TrainConfig.model_validate({"policy": values})
    four = TrainConfig.model_validate({"policy": values | {"adapter": {"rank": 4, "base_bits": 4}}})
    family, shape = shape_of(whole.policy)
    plans = [plan(config, shape, family, is_gpu=False) for config in (whole, four)]
    stored = [parameter.nbytes for name, parameter in loaded(tmp_path / "model").named_parameters()]
    assert plans[0].rollout.weights == 4 * shape.parameters
    assert plans[1].rollout.weights == plans[1].distill.weights == sum(stored)


# Configuration


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        (AdapterConfig, {"base_bits": 8}, "base_bits: got 8"),
        (PolicyConfig, {"adapter": {"base_bits": 4}}, "base_bits is for published models"),
        (
            TrainConfig,
            {
                "policy": {"model": {"path": "/x", "sha256": "0" * 64}, "adapter": {"base_bits": 4}},
                "distill": {"compute": {"processes": 2, "sharding": "fsdp"}},
            },
            "'fsdp' does not spread weights of policy.adapter.base_bits 4",
        ),
    ],
    ids=["8", "tiny", "fsdp"],
)
def test_impossible_bits_are_refused(config: type[PolicyConfig], values: dict[str, object], said: str) -> None:
    """If it fails, a run stops on a GPU for what its configuration already says."""
    with pytest.raises(ConfigError, match=said):
        config.model_validate_json(json.dumps(values))
