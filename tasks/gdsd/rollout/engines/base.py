"""The interface of an engine, which makes completions from prompt ids, sampler settings and keys of random numbers.

An engine is one class in one file, named in `config.sampler` and in the package's `make`. It decides how completions
are computed, and never what the stages around it see. So an engine that asks a server would fit in as well.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tqdm import tqdm

from tasks.gdsd.config.sampler import SamplerConfig


@dataclass(frozen=True)
class Request:
    """One completion to make: the prompt's tokens and the key of its random numbers."""

    prompt_ids: list[int]
    key: int


@dataclass(frozen=True)
class Completion:
    """What an engine made of a request."""

    ids: list[int]  # L tokens
    unmasked_at: list[int]  # the step, over all blocks, that unmasked each; the last one where `stop_at_end` filled it
    # Of the policy about each when it was unmasked, see `choice.uncertainty`; 0 where `stop_at_end` filled it. How the
    # last digits are rounded depends on what else was in the batch.
    uncertainty: list[float] = field(compare=False)
    steps: int  # denoiser calls that it took part in


@dataclass
class Work:
    """What an engine computed so far, summed over sequences."""

    calls: int = 0  # of the denoiser, each for a batch
    positions: int = 0  # tokens that went through the network's blocks
    rows: int = 0  # of logits


Finished: TypeAlias = dict[int, Completion]  # by the place of its request


@dataclass
class Engine(ABC):
    """Makes completions of one policy."""

    work: Work = field(default_factory=Work, init=False)

    @abstractmethod
    def resolve(self, settings: SamplerConfig) -> SamplerConfig:
        """Fills in what the settings leave to the policy's family.

        Raises:
            ConfigError: a setting would have no effect, or the engine cannot follow it.
        """

    @abstractmethod
    def generate(self, requests: Sequence[Request], settings: SamplerConfig, batch_size: int) -> Iterator[Finished]:
        """Yields completions of `settings.length` tokens, batch by batch, each request's once, in any order.

        Raises:
            ValueError: there are no requests.
            ConfigError: the settings do not fit the policy.
        """

    def complete(
        self, requests: Sequence[Request], settings: SamplerConfig, batch_size: int, title: str
    ) -> list[Completion]:
        """Returns the completion of each request, if there are any; meanwhile a progress bar has the title."""
        made: Finished = {}
        with tqdm(total=len(requests), desc=title, unit="seq", disable=None, leave=False) as bar:
            for batch in self.generate(requests, settings, batch_size) if requests else ():
                made.update(batch)
                bar.update(len(batch))
        return [made[index] for index in range(len(requests))]
