"""Dream's own sampler, written out from facts, against what the family's defaults make.

The facts are of `diffusion_generate` with `alg="entropy"` in Dream-org/Dream-v0-Instruct-7B, as DreamLM/Dream and
GaryBall/GDSD call it: logits are shifted by one row; temperature, top-p 0.95 (none at temperature 0) and top-k 50 are
applied one after the other; a row's rank is its entropy with 1e-10 added to each probability; time falls in even
steps from 1 to 1e-3 in float32. Theirs draws by torch's generator, which is replaced by this project's numbers, and
may draw any token, of which those that no completion may have are taken out beforehand.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import ExactConfig, SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.rollout.engines.base import Completion, Request
from tasks.gdsd.rollout.engines.exact import Exact
from tests.gdsd.official import write_dream

LENGTH = 24


@torch.no_grad()
def official(denoiser: Denoiser, asked: Request, steps: int, temperature: float, top_k: int | None) -> list[int]:
    """Returns the completion's tokens."""
    ids = torch.tensor([*asked.prompt_ids, *[denoiser.mask_id] * LENGTH])
    times = torch.linspace(1, 1e-3, steps + 1)
    for step in range(steps):
        hidden = (ids == denoiser.mask_id).nonzero().squeeze(1)
        rows = denoiser.network(ids[None]).logits[0]
        rows = torch.cat([rows[:1], rows[:-1]])[hidden]
        rows[:, list(denoiser.never_sampled)] = -torch.inf
        if temperature > 0:
            rows = keep_top_p(rows / temperature, 0.95)
        if top_k is not None:
            rows = rows.masked_fill(rows < rows.topk(top_k).values[:, -1:], -torch.inf)
        probabilities = rows.softmax(1)
        tokens = probabilities.argmax(1)
        if temperature > 0:
            places = step * LENGTH + hidden - len(asked.prompt_ids)
            uniform = seeds.uniform(torch.tensor(asked.key), places)
            tokens = (probabilities.double().cumsum(1) <= uniform[:, None]).sum(1)
        order = (probabilities * (probabilities + 1e-10).log()).sum(1).argsort(descending=True, stable=True)
        count = int(len(hidden) * (1 - times[step + 1] / times[step])) if step < steps - 1 else len(hidden)
        ids[hidden[order[:count]]] = tokens[order[:count]]
    return ids[len(asked.prompt_ids) :].tolist()


def keep_top_p(rows: Tensor, top_p: float) -> Tensor:
    """Leaves out every token before which the likelier ones have more than `top_p` together."""
    ordered, places = rows.sort(descending=True)
    mass = ordered.softmax(1)
    return torch.full_like(rows, -torch.inf).scatter(
        1, places, ordered.masked_fill(mass.cumsum(1) - mass > top_p, -torch.inf)
    )


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_dream_is_sampled_as_by_its_authors(tmp_path: Path, temperature: float) -> None:
    """If it fails, rollouts and evaluations of Dream are other ones than those its authors report."""
    write_dream(tmp_path, seed=3)
    dream = load_folder(tmp_path, "dream", torch.device("cpu"))
    asked = [Request(dream.encode(f"{number}+1="), seeds.key("official", number)) for number in range(6)]

    def ours(steps: int, top_k: int | None) -> list[list[int]]:
        settings = SamplerConfig(
            length=LENGTH, block_length=LENGTH, steps_per_block=steps, temperature=temperature, top_k=top_k
        )
        made: list[Completion] = Exact(dream, ExactConfig()).complete(asked, settings, 6, "")
        return [completion.ids for completion in made]

    for steps in (7, LENGTH):
        theirs = [official(dream, one, steps, temperature, 50) for one in asked]
        everything = [official(dream, one, steps, temperature, None) for one in asked]
        assert ours(steps, None) == theirs
        assert ours(steps, 0) == everything
        if temperature != 0.2:  # where 95 % are fewer than 50 tokens anyway
            assert theirs != everything
