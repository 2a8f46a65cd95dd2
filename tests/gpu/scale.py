"""How large everything is: on a GPU, and for a rehearsal on a CPU, where the same lines run in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.planning.shapes import Shape
from tests.gdsd.denoiser.test_families import DREAM_7B, LLADA_8B, QWEN3_06B
from tests.gdsd.official import dream_config, llada_config, qwen3_mdlm_config

Values = dict[str, object]
SAMPLER = SamplerConfig(length=64, block_length=32, steps_per_block=4)
WANTING = Shape(vocabulary=8192, width=512, inner=2048, layers=8, heads=8, kv_heads=8, head_width=64)
TINY = Shape(vocabulary=64, width=32, inner=48, layers=1, heads=2, kv_heads=2, head_width=16)


@dataclass(frozen=True)
class Scale:
    """Sizes of all parts."""

    kind: str = "cuda"
    models: Mapping[str, Values] = field(
        default_factory=lambda: {"LLaDA-8B": LLADA_8B, "Dream-7B": DREAM_7B, "Qwen3-0.6B": QWEN3_06B}
    )
    product: int = 8192  # rows and columns of a large product
    copied: int = 2**30  # bytes
    repeats: int = 5  # of a measurement, at most
    prompt: int = 200
    sampler: SamplerConfig = SAMPLER
    batches: tuple[int, ...] = (8, 32, 1)  # completions that are sampled together
    group: int = 4  # completions of an update, in two views each
    rank: int = 128
    trained_length: int = 256  # tokens of a completion in an update
    wanting: Shape = WANTING  # a model of whose update most bytes are activations
    looked: tuple[int, ...] = (1, 16)  # sequences of a look
    layers: int = 2  # of a shape that is compiled: code is made for each
    compiler: str = "inductor"
    processes: int = 2
    rounds: int = 20
    changed: tuple[str, ...] = ()  # fields of the default run

    @property
    def is_gpu(self) -> bool:
        return self.kind == "cuda"

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of a published model's weights, as they are loaded on such a device."""
        return torch.bfloat16 if self.is_gpu else torch.float32


FULL = Scale()
SMALL = Scale(
    kind="cpu",
    models={  # whose rows fill the blocks that 4 bits need
        "LLaDA-8B": llada_config() | {"d_model": 64, "mlp_hidden_size": 128},
        "Dream-7B": dream_config() | {"hidden_size": 64, "intermediate_size": 128},
        "Qwen3-0.6B": qwen3_mdlm_config() | {"hidden_size": 64, "intermediate_size": 128},
    },
    product=256,
    copied=2**20,
    repeats=1,
    prompt=8,
    sampler=SamplerConfig(length=16, block_length=8, steps_per_block=4),
    batches=(2,),
    group=2,
    rank=4,
    trained_length=8,
    wanting=TINY,
    looked=(2,),
    layers=1,
    compiler="eager",
    processes=1,  # two are tests.gdsd.distill.test_launcher's
    rounds=2,
    changed=(
        "prompts.train_size=64",
        "policy.warm_start.steps=1",
        "policy.tiny.hidden_size=16",
        "rollout.prompts_per_round=4",
    ),
)
