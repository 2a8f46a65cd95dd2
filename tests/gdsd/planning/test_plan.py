"""What a run needs, by arithmetic: counted weights against real networks, operations against the table of docs."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml

from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.policy import AdapterConfig, PolicyConfig, TinyModelConfig
from tasks.gdsd.config.sampler import DualCacheConfig, ExactConfig, PrefixCacheConfig, SamplerConfig
from tasks.gdsd.config.train import DistillConfig, TrainConfig
from tasks.gdsd.denoiser import checkpoint, families, networks, tiny
from tasks.gdsd.denoiser.exact_sum import Beside
from tasks.gdsd.denoiser.head import BLOCK_BYTES
from tasks.gdsd.denoiser.load import load_folder, load_source
from tasks.gdsd.distill import microbatch
from tasks.gdsd.errors import CheckpointError
from tasks.gdsd.planning import memory as footprint
from tasks.gdsd.planning import plan as plans
from tasks.gdsd.planning import shapes, work
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines import choice
from tasks.gdsd.rollout.engines.base import Request
from tests.gdsd.denoiser.test_families import DREAM_7B, ILLADA_8B, LLADA_8B, QWEN3_06B
from tests.gdsd.official import WRITERS, widened

CPU = torch.device("cpu")
CONFIGS = Path(__file__).resolve().parents[3] / "configs"
LLADA, DREAM = (shapes.shape_of_config(values)[1] for values in (LLADA_8B, DREAM_7B))
QWEN3 = shapes.shape_of_config(QWEN3_06B)[1]
TERA = 1e12


@pytest.mark.parametrize("values", [LLADA_8B, DREAM_7B, ILLADA_8B, QWEN3_06B], ids=lambda values: values["model_type"])
def test_weights_are_counted_as_the_network_has_them(values: dict[str, object]) -> None:
    """If it fails, a plan is made for a model of another size. test_families.py has the published numbers."""
    network = networks.build(families.of_config(values), values)
    networks.finish(network, families.of_config(values), torch.device("meta"))
    assert shapes.shape_of_config(values)[1].parameters == sum(each.numel() for each in network.parameters())


def test_shapes_that_are_no_files_are_right() -> None:
    """If it fails, the tiny network has changed and its plan has not, or a plan without network differs."""
    small = TinyModelConfig(hidden_size=24, intermediate_size=20, layers=2, heads=2)
    network, known = tiny.build(small, 0), shapes.PUBLISHED
    assert shapes.shape_of(PolicyConfig(tiny=small))[1].parameters == sum(each.numel() for each in network.parameters())
    assert known["GSAI-ML/LLaDA-8B-Instruct"] == known["GSAI-ML/LLaDA-1.5"] == shapes.shape_of_config(LLADA_8B)
    assert known["Dream-org/Dream-v0-Instruct-7B"] == shapes.shape_of_config(DREAM_7B)
    assert known["dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1"] == shapes.shape_of_config(QWEN3_06B)
    unknown = PolicyConfig.model_validate_json(json.dumps({"model": {"hub": "nobody/nothing", "revision": "0" * 40}}))
    with pytest.raises(CheckpointError, match=r"the shape of nobody/nothing is not known: .*LLaDA-8B"):
        shapes.shape_of(unknown)


@pytest.mark.parametrize("page", ["capacity", "hardware", "recipes"])
def test_pages_have_the_share_of_the_peak_that_is_planned_with(page: str) -> None:
    """If it fails, a measurement has replaced the assumption, and a reader still takes the old one for the plan's."""
    assert f" {work.REACHED:.0%}".replace("%", " % of ") in (CONFIGS.parent / f"docs/{page}.md").read_text()


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj", "o_proj"], ["down_proj", "up_proj", "k_proj"]])
def test_an_adapter_is_counted_as_peft_makes_it(family: str, targets: list[str], tmp_path: Path) -> None:
    """If it fails, optimizer and gradients are planned for another adapter."""
    WRITERS[family](tmp_path)
    denoiser = load_folder(tmp_path, family, CPU)
    config = AdapterConfig(rank=3, targets=targets)
    denoiser.attach_adapter(config, seed=0)
    source = PolicyConfig.model_validate_json(json.dumps({"model": {"path": str(tmp_path)}}))
    found, shape = shapes.shape_of(source)
    assert found.name == family
    assert shape.adapter(config) == sum(parameter.numel() for _, parameter in denoiser.trainable())


def test_a_policy_that_goes_on_is_planned_by_its_base(tmp_path: Path) -> None:
    """If it fails, training further is planned for another model, or without the weights that it is pulled towards."""
    WRITERS["llada"](tmp_path / "model")
    denoiser = load_source(ModelFolder(path=str(tmp_path / "model")), CPU)
    adapter = AdapterConfig(rank=3)
    denoiser.attach_adapter(adapter, seed=0)
    folder = checkpoint.save(tmp_path / "policy", checkpoint.base_state(denoiser))
    plain, further = (
        TrainConfig.model_validate_json(json.dumps({"policy": policy | {"adapter": adapter.model_dump()}}))
        for policy in (
            {"model": {"path": str(tmp_path / "model")}},
            {"model": {"path": str(folder)}, "stored_adapter": "continue"},
        )
    )
    family, shape = shapes.shape_of(plain.policy)
    alone = json.dumps({"model": {"path": str(folder / "adapter")}, "adapter": {}})
    for policy in (further.policy, PolicyConfig.model_validate_json(alone)):
        assert shapes.shape_of(policy) == (family, shape)
    begun = plans.plan(further, shape, family).distill.reference - plans.plan(plain, shape, family).distill.reference
    assert begun == 4 * shape.adapter(adapter)


@pytest.mark.parametrize(
    ("shape", "body", "attention", "head", "total"),
    [(LLADA, 6.37, 0.11, 0.47, 6.95), (DREAM, 5.95, 0.08, 0.50, 6.53), (QWEN3, 0.40, 0.05, 0.14, 0.59)],
    ids=["LLaDA-8B", "Dream-7B", "Qwen3-0.6B"],
)
def test_a_step_costs_what_the_table_says(
    shape: shapes.Shape, body: float, attention: float, head: float, total: float
) -> None:
    """The cost table of dllm.md, for a prompt of 200 tokens, a completion of 256 and all logits, in TFLOP.

    LLaDA: body 2 x 456 x 32 x (4 x 4096^2 + 3 x 4096 x 12288) = 6.37 T; attention 4 x 456^2 x 4096 x 32 = 0.11 T; head
    2 x 456 x 126464 x 4096 = 0.47 T. The table has no parts for the other two: theirs are the same sums.
    """
    tokens = 456
    of_body, of_head = 2.0 * tokens * shape.body / TERA, work.logits(shape, tokens).total / TERA
    whole = work.forward(shape, tokens).total / TERA
    assert of_body == pytest.approx(body, abs=0.006) and of_head == pytest.approx(head, abs=0.006)
    assert whole - of_body == pytest.approx(attention, abs=0.006)
    assert whole + of_head == pytest.approx(total, abs=0.006)


def test_a_completion_costs_what_the_table_says_less_the_logits_that_nobody_needs() -> None:
    """If it fails, a plan's hours are wrong. The table: 0.889 PFLOP for 128 steps with the logits of all 456 rows.

    This sampler computes those of tokens that are hidden in the current block: in blocks of 32 with two tokens a step,
    32, 30, ..., 2, on average 17 rows. In the last of 32 blocks it asks only for those: that one's queries, output and
    MLP, of 4096 x (2 x 4096 + 3 x 12288) weights, and its 4 x 456 x 4096 of attention, count 17 tokens in place of 456.
    """
    settings = SamplerConfig(length=256, block_length=32, steps_per_block=16)
    assert 128 * (work.forward(LLADA, 456) + work.logits(LLADA, 456)).total == pytest.approx(0.889e15, rel=1e-3)
    settings = families.named("llada").sampler.fill(settings)
    spared = (456 - 17) * (2 * 4096 * (2 * 4096 + 3 * 12288) + 4 * 456 * 4096)
    expected = 128 * ((work.forward(LLADA, 456) + work.logits(LLADA, 17)).total - spared)
    assert work.completion(LLADA, 200, settings).total == pytest.approx(expected)


@pytest.mark.parametrize("engine", [PrefixCacheConfig, DualCacheConfig])
@pytest.mark.parametrize("refresh", [None, 2])
def test_what_an_approximate_engine_computes_is_counted(
    engine: type[PrefixCacheConfig | DualCacheConfig], refresh: int | None, tmp_path: Path
) -> None:
    """If it fails, the hours of a cached run are those of an exact one, or of no run at all."""
    WRITERS["llada"](tmp_path)
    denoiser = load_folder(tmp_path, "llada", CPU)
    settings = SamplerConfig(length=8, block_length=4, steps_per_block=4)
    config = engine(refresh_every=refresh)
    sampler = engines.make(config, denoiser)
    assert len(list(sampler.generate([Request([7] * 5, 0)], settings, 1))) == 1
    # With one block, no attention to speak of and no logits, operations are proportional to the places computed.
    flat = shapes.Shape(0, 8, 10**6, 2, 1, 1, 1)
    settings = denoiser.family.sampler.fill(settings)
    found = work.completion(flat, 5, settings, engine=config).network
    last = sum(work.hidden_rows(settings)) * settings.blocks
    assert found / (2 * 3 * 8 * 10**6) == pytest.approx(sampler.work.positions + last, rel=1e-4)


def test_a_compiled_engine_asks_for_the_whole_block() -> None:
    """If it fails, what compiling costs is left out: of 32 rows of the last block 17 are needed on average."""
    settings = SamplerConfig(length=256, block_length=32, steps_per_block=16, order="confidence")
    plain, quick = (work.completion(LLADA, 200, settings, None, ExactConfig(compile=each)) for each in (False, True))
    more = 128 * (32 - 17) * (2 * 4096 * (2 * 4096 + 3 * 12288) + 4 * 456 * 4096)
    assert quick.network - plain.network == pytest.approx(more) and quick.logits == plain.logits


def test_an_adapter_beside_half_precision_is_sampled_at_its_rate() -> None:
    """If it fails, half the hours of a recipe are those of float32 products that rollouts and evaluations do not make.

    Rank 128 on all maps of LLaDA has 128 x (4 x 8192 + 3 x 16384) = 10,485,760 weights in a block, of which k and v
    have 2 x 128 x 8192 = 2,097,152. A look of 128 computes 456 tokens, in the last block but for k and v 17 on average.
    """
    adapter = AdapterConfig(rank=128, alpha=64.0)
    settings = SamplerConfig(length=256, block_length=32, steps_per_block=16, order="confidence")
    plain, beside = (work.completion(LLADA, 200, settings, each) for each in (None, adapter))
    added = 2 * (456 * (31 * 10_485_760 + 2_097_152) + 17 * (10_485_760 - 2_097_152))
    assert beside.network - plain.network == pytest.approx(128 * added) and beside.logits == plain.logits
    assert beside.adapter == 0, "which is in the network's precision"
    found, without = planned(recipe("llada_gsm8k")), planned(recipe("llada_gsm8k", policy={"adapter": None}))
    for one, other in ((found.rollout_work, without.rollout_work), (found.evaluation_work, without.evaluation_work)):
        assert (one.logits, one.adapter) == (other.logits, 0)
    assert found.rollout_work.network > without.rollout_work.network
    assert found.evaluation_work.network > without.evaluation_work.network


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_held_as_its_sampling_form_holds_it(
    dtype: torch.dtype, bits: Literal[4] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, memory is planned for an adapter of another precision than it samples in, or for a merged one."""
    if bits is not None:
        pytest.importorskip("bitsandbytes")
    widened(monkeypatch)
    WRITERS["llada"](tmp_path)
    adapter = AdapterConfig(rank=3, alpha=6.0, targets=["q_proj", "down_proj"], base_bits=bits)
    denoiser = load_source(ModelFolder(path=str(tmp_path)), CPU, dtype, bits=bits)
    denoiser.attach_adapter(adapter, seed=0)
    denoiser.freeze_for_sampling()
    parts = [part for part in denoiser.network.modules() if isinstance(part, Beside)]
    held = sum(half.numel() * half.itemsize for part in parts for half in (part.down, part.up))
    _, shape = shapes.shape_of(PolicyConfig.model_validate_json(json.dumps({"model": {"path": str(tmp_path)}})))
    settings = SamplerConfig(length=8, block_length=4, steps_per_block=4, order="confidence")
    found = footprint.of_sampling(shape, 1, 5, settings, dtype.itemsize, adapter)
    assert found.adapter == held and (footprint.beside(adapter, dtype.itemsize) is not None) == bool(parts)


def test_an_adapter_arrives_before_there_is_a_batch() -> None:
    """If it fails, a policy that samples one short completion runs out of memory when it is loaded.

    335,544,320 float32 weights beside LLaDA in half precision. Merged, there is also a product of 4096 x 12288.
    """
    adapter, weights = AdapterConfig(rank=128, alpha=64.0), 8_015_581_184
    settings = SamplerConfig(length=2, block_length=2, steps_per_block=2, order="confidence")
    half, full = (footprint.of_sampling(LLADA, 1, 1, settings, b, adapter).total for b in (2, 4))
    assert half == 2 * weights + 4 * 335_544_320
    assert full == 4 * weights + 4 * 335_544_320 + 4 * 4096 * 12288


def test_the_drift_of_an_approximate_engine_is_counted() -> None:
    """If it fails, a cache looks faster than it is: both engines complete the run's sample in each round."""
    engine = {"name": "dual_cache", "drift": {"sample": 48}}
    cached, exact = planned(recipe("llada_gsm8k", rollout={"engine": engine})), planned(recipe("llada_gsm8k"))
    both = (cached.rollout_work + exact.rollout_work).total / 320  # one completion by each
    assert cached.drift_work.total == pytest.approx(48 * both) and exact.drift_work.total == 0
    assert cached.loads.of_round == exact.loads.of_round + 1
    device = work.DEVICES["h100"]
    rounds = cached.rollout_seconds(device) + cached.drift_seconds(device) + cached.distill_seconds(device)
    rounds += cached.loads.round_seconds
    assert cached.hours(device) == pytest.approx(150 * rounds / 3600 + cached.evaluation_hours(device))


def test_memory_is_of_the_largest_batch() -> None:
    """If it fails, evaluations or drift samples run out of memory on a device that the plan calls large enough."""
    small = {"batch_size": 64, "prompts_per_round": 1, "shards": 1, "group_size": 2}
    alone = planned(recipe("llada_gsm8k", rollout=small))
    engine = {"name": "dual_cache", "drift": {"sample": 32}}
    assert planned(recipe("llada_gsm8k", rollout=small | {"engine": engine})).rollout.caches == pytest.approx(
        32 * 456 * 2 * 32 * 4096 * 2
    )
    # An evaluation of all 1319 test problems in batches of 2000 on one machine is larger than a round's update.
    together = {"batch_size": 2000, "shards": 1}
    many = planned(recipe("llada_gsm8k", evaluation=together))
    assert many.peak == many.evaluation.total > many.distill.total > alone.evaluation.total
    assert many.evaluation == planned(recipe("llada_gsm8k", evaluation=together | {"batch_size": 1319})).evaluation
    assert planned(recipe("llada_gsm8k", evaluation={"batch_size": 2000, "shards": 100})).peak < many.peak / 2


def test_constants_of_other_modules_are_theirs() -> None:
    """If it fails, buffers have another size than planned."""
    assert (footprint.BLOCK_BYTES, footprint.LOGITS_BYTES) == (BLOCK_BYTES, choice.LOGITS_BYTES)
    assert footprint.CHUNK_BYTES == choice.CHUNK_BYTES


@pytest.mark.parametrize("name", ["gdsd", "espo", "spg", "wd1", "diffu_grpo"])
@pytest.mark.parametrize("baseline", ["zero", "group"])
def test_what_is_read_together_is_the_distillers(name: str, baseline: str) -> None:
    """If it fails, micro-batches are planned in another size than they have."""
    objective: dict[str, object] = {"name": name}
    if name == "gdsd":
        objective |= {"baseline": baseline, "mask_source": "random"}
    config = DistillConfig.model_validate_json(json.dumps({"objective": objective}))
    assert work.unit(config.objective, 6) == microbatch.smallest(config.objective, 6)


def recipe(name: str, **changes: dict[str, object]) -> TrainConfig:
    """A recipe on one GPU, with each stage of a round as a task, and some of its fields changed."""
    written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | {"rounds_per_task": 1}
    written["distill"]["compute"]["processes"] = 1
    for section, values in changes.items():
        written[section] |= values
    return TrainConfig.model_validate_json(json.dumps(written))


def planned(config: TrainConfig, is_gpu: bool = True) -> plans.Plan:
    family, shape = shapes.shape_of(config.policy)
    return plans.plan(config, shape, family, is_gpu, prompt=200)


def test_memory_of_a_recipe_by_hand() -> None:
    """If it fails, a person rents the wrong GPU, or what can be done about a plan that does not fit changes nothing.

    LLaDA-8B in bfloat16 is 16.03 GB. Its adapter of rank 128 on all maps has 128 x 32 x (4 x 2 x 4096 + 3 x 16384) =
    335,544,320 float32 numbers, 1.34 GB, and as many times two for the moments. Trained itself it has weights,
    gradients and two moments in float32. Its reference has the maps of the blocks in half precision, as what is sampled
    from.
    """
    found, parameters = planned(recipe("llada_gsm8k")), 8_015_581_184
    assert found.adapter == 335_544_320 and found.completions == 320
    assert found.distill.weights == 2 * parameters and found.distill.reference == 0
    assert found.distill.adapter == 4 * found.adapter and found.distill.optimizer == 8 * found.adapter
    found = planned(recipe("llada_gsm8k", policy={"adapter": None}))
    whole, outside = found.distill, 2 * 126_464 * 4096 + 4096
    assert found.adapter == 0 and found.parameters == parameters and found.rollout.weights == 2 * parameters
    assert whole.weights == 4 * parameters and whole.optimizer == 8 * parameters and whole.gradients >= 4 * parameters
    assert whole.reference == 4 * outside + 2 * (parameters - outside)
    plain, cut = {}, {"micro_batch_tokens": 2000}
    large, small = (planned(recipe("qwen3_sudoku", distill={"compute": each})).distill for each in (plain, cut))
    assert small.activations < large.activations / 2
    assert planned(recipe("qwen3_sudoku")).distill.activations < large.activations / 4  # which recomputes


def test_sharding_spreads_the_blocks() -> None:
    """If it fails, a model is planned for more or fewer GPUs than it takes.

    LLaDA-8B has 2 x 126464 x 4096 + 4096 weights outside its 32 blocks. Of two processes each has half of the others,
    and two blocks whole.
    """
    outside = 2 * 126_464 * 4096 + 4096
    blocks = 8_015_581_184 - outside
    distill = yaml.safe_load((CONFIGS / "llada_gsm8k.yaml").read_text())["distill"]
    compute = distill["compute"] | {"processes": 2, "sharding": "fsdp"}
    memory = planned(recipe("llada_gsm8k", distill={"compute": compute})).distill
    apart = compute | {"processes": 1, "nodes": 2}
    assert planned(recipe("llada_gsm8k", distill={"compute": apart})).distill == memory
    assert memory.weights == 2 * (outside + blocks / 2 + 2 * blocks / 32)
    assert memory.adapter == 4 * 335_544_320 / 2 and memory.optimizer == 8 * 335_544_320 / 2


def test_a_cpu_holds_weights_in_float32_and_merges_an_adapter() -> None:
    """If it fails, a run on the CPU is planned at half its size, or with an adapter that is not there any more."""
    config = recipe("qwen3_sudoku")
    found = planned(config, is_gpu=False)
    assert found.rollout.weights == 2 * planned(config).rollout.weights
    without = planned(recipe("qwen3_sudoku", policy={"adapter": None}), is_gpu=False)
    assert (found.rollout_work, found.evaluation_work) == (without.rollout_work, without.evaluation_work)
    assert found.rollout.adapter == found.evaluation.adapter == 0


def test_loads_are_counted(tmp_path: Path) -> None:
    """If it fails, a person cuts a round into shards that spend their time on loading the model.

    LLaDA-8B and its adapter are 2 x 8.0 + 4 x 0.3 GB = 17.4 GB at rest; an epoch reads the moments as well. A local
    folder is also hashed. Without an adapter the policy is float32, and each process reads the base for the reference.
    """
    config = recipe("llada_gsm8k", rollout={"shards": 4}, evaluation={"shards": 3})
    found = planned(config).loads
    assert (found.rollouts, found.epochs, found.evaluations) == (4, 1, 3 * (6 + 2)) and found.hashed == 0
    at_rest, moments = 2 * 8_015_581_184 + 4 * 335_544_320, 8 * 335_544_320
    assert (found.sampled, found.trained) == (at_rest, at_rest + moments)
    whole = recipe("llada_gsm8k", policy={"adapter": None}, distill={"compute": {"processes": 2}})
    assert planned(whole).loads.epochs == 4 and planned(whole).loads.sampled == 4 * 8_015_581_184
    WRITERS["llada"](tmp_path)
    local = planned(recipe("llada_gsm8k", policy={"model": {"path": str(tmp_path)}})).loads
    assert local.hashed > 0 and local.round_seconds > 0
    # Validations, test problems before and after, and the same of a guard.
    assert sum(plans.evaluations(recipe("llada_gsm8k"))) == 6 * 128 + 2 * 1319
    assert sum(plans.evaluations(recipe("llada_code"))) == 4 * 90 + 2 * (500 + 164)
