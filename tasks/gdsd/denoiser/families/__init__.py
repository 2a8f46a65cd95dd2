"""The families of models that can be trained: a name or a config.json comes in, and a description goes out.

Read `base` first, then `llada`.
"""

import difflib

from tasks.gdsd.denoiser.families.base import Family, Values
from tasks.gdsd.denoiser.families.dream import DREAM
from tasks.gdsd.denoiser.families.illada import ILLADA
from tasks.gdsd.denoiser.families.llada import LLADA
from tasks.gdsd.denoiser.families.qwen3_mdlm import QWEN3_MDLM
from tasks.gdsd.denoiser.families.tiny import TINY
from tasks.gdsd.errors import CheckpointError

FAMILIES = {family.name: family for family in (TINY, LLADA, ILLADA, DREAM, QWEN3_MDLM)}


def named(name: str) -> Family:
    """Returns the family of a name.

    Raises:
        CheckpointError: there is none.
    """
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise CheckpointError(f"There is no family {name!r}; {hint}known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def of_config(values: Values) -> Family:
    """Returns the family whose checkpoints call themselves what a config.json does.

    Raises:
        CheckpointError: there is none.
    """
    found = values.get("model_type")
    for family in FAMILIES.values():
        if family.model_type == found:
            return family
    known = ", ".join(f"{family.model_type} ({family.name})" for family in FAMILIES.values())
    raise CheckpointError(f"config.json has the model_type {found!r}, which is of no known family: {known}")
