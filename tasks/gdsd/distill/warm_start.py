"""The warm start of a tiny policy: masked denoising of the answers to training problems."""

import logging

import pyarrow as pa
import torch
from tqdm import trange

from tasks.gdsd import seeds
from tasks.gdsd.config.policy import WarmStartConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.distill.token_scores import log_prob
from tasks.gdsd.errors import DataError

logger = logging.getLogger(__name__)

RISE = 20  # steps over which the learning rate rises; Adam's first steps are otherwise too long


def warm_start(denoiser: Denoiser, train: pa.Table, config: WarmStartConfig, length: int, seed: int) -> None:
    """Trains a denoiser in place on the negative ELBO of the reference answers (LLaDA, arXiv 2502.09992, eq. 5).

    Answers shorter than `length` are filled with end tokens, which the policy thus learns to emit. Without steps the
    references may be anything.

    Raises:
        DataError: an answer is longer than a completion, or there is none.
    """
    if not config.steps:
        return
    rows = train.select(["id", "prompt", "reference"]).to_pylist()
    if empty := sum(not row["reference"].strip() for row in rows):
        raise DataError(
            f"{empty} of {len(rows)} training problems have no reference, and a warm start would teach the policy to "
            "write nothing; set policy.warm_start.steps to 0, or name a model"
        )
    prompts = [denoiser.encode(row["prompt"]) for row in rows]
    answers = [denoiser.encode(row["reference"]) for row in rows]
    longest = max(range(len(rows)), key=lambda row: len(answers[row]))
    if len(answers[longest]) > length:
        raise DataError(
            f"the reference of the training problem {rows[longest]['id']!r} has {len(answers[longest])} tokens, but a "
            f"completion has {length}; raise rollout.sampler.length, or leave the problem out"
        )
    answers = [answer + [denoiser.end_id] * (length - len(answer)) for answer in answers]
    logger.info("warm start: %d updates on the answers of %s problems", config.steps, f"{len(rows):,}")
    optimizer = torch.optim.AdamW(denoiser.parameters(), config.learning_rate, weight_decay=0.01)
    for step in trange(config.steps, desc="warm start", disable=None, leave=False):
        source = seeds.generator(seed, "warm start", step)
        chosen = torch.randint(len(rows), (config.batch_size,), generator=source).tolist()
        ids, attention = left_pad([prompts[index] for index in chosen], denoiser.pad_id, denoiser.device)
        tokens = torch.tensor([answers[index] for index in chosen], device=denoiser.device)  # (B, L)
        # Stratified mask rates: each batch sees the whole range of difficulties.
        rates = (torch.arange(config.batch_size) + torch.rand(config.batch_size, generator=source)) / config.batch_size
        hidden = (torch.rand(tokens.shape, generator=source) < rates[:, None]).to(denoiser.device)  # (B, L)
        canvas = tokens.masked_fill(hidden, denoiser.mask_id)
        attend = torch.cat([attention, torch.ones_like(hidden)], dim=1)
        states = denoiser(torch.cat([ids, canvas], dim=1), attend)[:, ids.shape[1] :]  # (B, L, D)
        scores = log_prob(states[hidden], denoiser.head(), tokens[hidden])
        weights = (1 / rates)[:, None].to(denoiser.device).expand_as(hidden)[hidden]
        loss = -(scores * weights).sum() / tokens.numel()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / RISE)
        optimizer.step()
