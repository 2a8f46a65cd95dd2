"""The loop without Flyte: what a script or notebook needs to sample, judge, update and save a policy, on one device.

The functions are those of the pipeline's stages, on objects in memory. docs/library.md shows them at work.
"""

from tasks.gdsd.config.model_source import HubModel, ModelFolder
from tasks.gdsd.config.policy import AdapterConfig, PolicyConfig
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.library.prompts import Prompt, Splits, pick, problems
from tasks.gdsd.library.steps import Judgement, judge, load, sample, save, start, update
from tasks.gdsd.rollout.shard import Rollout

__all__ = [
    "AdapterConfig",
    "DistillConfig",
    "HubModel",
    "Judgement",
    "ModelFolder",
    "PolicyConfig",
    "PolicyState",
    "Prompt",
    "PromptConfig",
    "Rollout",
    "SamplerConfig",
    "Splits",
    "judge",
    "load",
    "pick",
    "problems",
    "sample",
    "save",
    "start",
    "update",
]
