"""Every random number of a run comes from here, and each is addressed rather than drawn in turn.

A number depends only on its address (run seed, purpose, round, prompt, sample, step, position), so no result depends
on batch composition, shard count or what was drawn before. The generator is the SplitMix64 finaliser used as a
counter-based generator (Steele, Lea and Flood, OOPSLA 2014): 64-bit integer arithmetic, hence bit-identical on every
device.
"""

import hashlib

import torch
from torch import Tensor

GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MULTIPLIER_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MULTIPLIER_2 = -7723592293110705685  # 0x94D049BB133111EB


def key(*address: int | str) -> int:
    """Returns a signed 64-bit key for an address such as `(seed, "rollout", round, prompt_id, sample)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in address)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def generator(*address: int | str) -> torch.Generator:
    """Returns a torch generator on the CPU that is seeded by an address, for shuffles and initialisation."""
    return torch.Generator().manual_seed(key(*address))


def uniform(
    keys: Tensor,  # (...) int64: one key per sequence
    counter: Tensor | int,  # broadcastable with keys, int64
) -> Tensor:  # (...) float64 in [0, 1)
    """Returns the uniform number that belongs to each (key, counter), with 53 random bits."""
    bits = _mix(_mix(keys) + GOLDEN_GAMMA * (torch.as_tensor(counter, dtype=torch.int64, device=keys.device) + 1))
    return (_shift_right(bits, 11)).to(torch.float64) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """The SplitMix64 finaliser; int64 multiplication wraps as the unsigned one does."""
    x = (x ^ _shift_right(x, 30)) * MULTIPLIER_1
    x = (x ^ _shift_right(x, 27)) * MULTIPLIER_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's is arithmetic on signed integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
