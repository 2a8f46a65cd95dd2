"""A base of 4 bits under an adapter: near the base, frozen, never whole in memory, and the same wherever it is read.

All but the refusals need bitsandbytes, the extra `quantization`, and are skipped where it is not installed.
"""

import copy
import json
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.policy import AdapterConfig, PolicyConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser import checkpoint, quantization
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_source
from tasks.gdsd.errors import CheckpointError, ConfigError
from tasks.gdsd.planning.plan import plan
from tasks.gdsd.planning.shapes import shape_of
from tests.gdsd.checkpoints import CPU, edit_json
from tests.gdsd.epochs import configured, rewarded, run
from tests.gdsd.official import LAYERS, WRITERS, widened, write_llada

IDS = torch.randint(10, 260, (2, 16), generator=torch.Generator().manual_seed(0))
ADAPTER = AdapterConfig(rank=4, alpha=6.0, base_bits=4)


def loaded(model: Path) -> Denoiser:
    pytest.importorskip("bitsandbytes")
    return load_source(ModelFolder(path=str(model)), CPU, torch.float32, bits=4)


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


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models whose rows fill blocks."""
    widened(monkeypatch)


@pytest.fixture(params=["llada", "dream"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A published model without biases, and one with them."""
    WRITERS[request.param](tmp_path / "model", shards=2)
    return tmp_path / "model"


@torch.no_grad()
def test_logits_are_near_those_of_the_whole_base(model: Path) -> None:
    """If it fails, a base of 4 bits is another model: more is quantised than the blocks' maps, or by other levels.

    Normal weights are 9 % from the levels of NF4 (root mean square), and nothing else differs: a whole base of the
    rounded weights has the same logits. What that makes of the logits depends on the model, here much.
    """
    whole, near = load_source(ModelFolder(path=str(model)), CPU, torch.float32), loaded(model)
    exact = read(whole)
    assert (read(near) - exact).norm() > 0.02 * exact.norm()
    layers = {name: part for name, part in near.network.named_modules() if hasattr(part, "quant_state")}
    assert len(layers) == 7 * LAYERS and all(name.startswith("model.layers.") for name in layers)
    assert quantization.weights(near) == sum(parameter.numel() for parameter in whole.parameters())
    for name, layer in layers.items():
        weight = whole.network.get_submodule(name).get_parameter("weight")
        dense = quantization.dense(layer)
        assert 0.07 < (dense - weight).norm() / weight.norm() < 0.1
        weight.copy_(dense)
    torch.testing.assert_close(read(near), read(whole), atol=1e-4, rtol=1e-4)


def test_only_one_weight_at_a_time_is_whole(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a model that fits in 4 bits does not load: its weights are all read before they are quantised."""
    quantise, read_so_far, alive = quantization.quantise, [], []

    def count(linear: torch.nn.Linear, weight: Tensor) -> torch.nn.Linear:
        alive.append(sum(before() is not None for before in read_so_far))
        read_so_far.append(weakref.ref(weight))
        return quantise(linear, weight)

    monkeypatch.setattr(quantization, "quantise", count)
    loaded(model)
    assert alive == [0] * 7 * LAYERS


@pytest.mark.parametrize("compute", [{}, {"gradient_checkpointing": True, "precision": "bfloat16"}], ids=str)
def test_an_epoch_changes_the_adapter_alone(compute: dict[str, object], tmp_path: Path) -> None:
    """If it fails, a base of 4 bits cannot be trained on, or drifts."""
    write_llada(tmp_path / "model")
    start = checkpoint.base_state(adapted(tmp_path / "model", size=0.01))
    config = configured({"reference_weight": 0.5})
    config = config.model_copy(update={"compute": config.compute.model_copy(update=compute)})
    before = copy.deepcopy(start.denoiser.state_dict())
    after = run(start, rewarded(start.denoiser), config)[0].denoiser.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name, _ in start.denoiser.trainable()}


def test_weights_of_4_bits_are_not_trained(tmp_path: Path) -> None:
    """If it fails, full fine-tuning runs on packed weights, or an adapter says that its base is another than it is."""
    write_llada(tmp_path / "model")
    whole = load_source(ModelFolder(path=str(tmp_path / "model")), CPU)
    with pytest.raises(ValueError, match="read with base_bits None, but the adapter says 4"):
        whole.attach_adapter(ADAPTER, seed=0)
    denoiser = loaded(tmp_path / "model")
    with pytest.raises(ValueError, match="weights of 4 bits cannot be trained"):
        denoiser.trainable()
    with pytest.raises(ValueError, match="read with base_bits 4, but the adapter says None"):
        denoiser.attach_adapter(AdapterConfig(), seed=0)


@torch.no_grad()
def test_sampling_and_the_next_round_read_the_same_base(model: Path, tmp_path: Path) -> None:
    """If it fails, rollouts and evaluations are on the whole base, on which the adapter was not trained."""
    denoiser = adapted(model)
    folder = checkpoint.save(tmp_path / "policy", checkpoint.base_state(denoiser))
    assert json.loads((folder / "base.json").read_text())["bits"] == 4 and not list(folder.glob("model*"))
    again = checkpoint.load(folder, CPU)
    before = read(denoiser)
    assert torch.equal(read(again.denoiser), before)
    with again.denoiser.base_only():
        assert torch.equal(read(again.denoiser), read(loaded(model)))
        assert (read(again.denoiser) - before).abs().max() > 0.5, "the adapter matters, so the test means something"
    copied = checkpoint.save(tmp_path / "again", again)
    assert (copied / "base.json").read_bytes() == (folder / "base.json").read_bytes()
    again.denoiser.freeze_for_sampling()
    torch.testing.assert_close(read(again.denoiser), before, atol=1e-4, rtol=1e-4)
    edit_json(folder / "base.json", bits=8)
    with pytest.raises(CheckpointError, match=r"base\.json is damaged"):
        checkpoint.load(folder, CPU)


def test_the_plan_counts_packed_weights(tmp_path: Path) -> None:
    """If it fails, a run that fits a device in 4 bits is planned for a larger one, or the other way round."""
    write_llada(tmp_path / "model")
    values = {"model": {"path": str(tmp_path / "model")}, "adapter": {"rank": 4}}
    whole = TrainConfig.model_validate({"policy": values})
    four = TrainConfig.model_validate({"policy": values | {"adapter": {"rank": 4, "base_bits": 4}}})
    family, shape = shape_of(whole.policy)
    plans = [plan(config, shape, family, is_gpu=False) for config in (whole, four)]
    assert plans[0].rollout.weights == 4 * shape.parameters
    denoiser = loaded(tmp_path / "model")
    scales = [part.quant_state.absmax for part in denoiser.network.modules() if hasattr(part, "quant_state")]
    stored = sum(tensor.nbytes for tensor in (*denoiser.parameters(), *scales))
    assert plans[1].rollout.weights == plans[1].distill.weights == stored


# Refusals


def test_what_is_not_installed_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run downloads a model of 16 GB before it finds that it cannot read it in 4 bits."""
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    source = ModelFolder(path=str(tmp_path / "nowhere"), sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes, .*pip install .* bitsandbytes.*EXTRAS=quantization"):
        load_source(source, CPU, bits=4)


def test_rows_that_fill_no_blocks_are_refused() -> None:
    """If it fails, a model is read with scales of other weights: bitsandbytes mixes them up on a CPU."""
    pytest.importorskip("bitsandbytes")
    with pytest.raises(CheckpointError, match=r"64 x 48 weights has rows that do not fill blocks of 64.*base_bits"):
        quantization.quantise(torch.nn.Linear(48, 64, bias=False), torch.zeros(64, 48))


def test_tiny_models_keep_their_weights(denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a tiny base is saved in a form that nothing reads."""
    monkeypatch.setattr(quantization, "require", lambda: None)
    denoiser.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"tiny model.*leave base_bits out"):
        load_source(ModelFolder(path=str(tmp_path)), CPU, bits=4)


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
