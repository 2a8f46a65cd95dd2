"""Which columns of a source hold what a problem is made of."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tasks.gdsd import tables
from tasks.gdsd.config.prompts import TestConfig
from tasks.gdsd.domains import Domain
from tasks.gdsd.errors import DataError

PLAIN = re.compile(r"[^\s,](?:[^,]*[^\s,])?")  # a column's name that can stand in a list without quotes


class Chosen(NamedTuple):
    """What is read of a source's rows."""

    used: Mapping[str, str]  # our name of a column: the source's
    required: frozenset[str]  # those of ours that every row must have a value for
    stand: bool  # whether the rows are problems already


def wanted(domain: Domain, config: TestConfig) -> dict[str, str]:
    """Returns all columns that could be used: our names of them, and the source's."""
    ours = dict.fromkeys([*tables.PROMPTS.names, *domain.columns])
    taken = set(config.columns.values())
    return {name: config.columns.get(name, name) for name in ours if name in config.columns or name not in taken}


def choose(domain: Domain, config: TestConfig, split: str, there: Sequence[str]) -> Chosen:
    """Chooses among the columns of a source.

    Rows with `reference` and `problem`, or `prompt` for the problem, are problems already. Where a domain reads these
    two itself, and can do without the reference, a row may lack it.

    Raises:
        DataError: a column is missing.
    """
    listed = ", ".join(name if PLAIN.fullmatch(name) and name.isprintable() else repr(name) for name in there)
    option = f"{config.section}.columns"
    if missing := sorted({*config.columns.values()} - {*there}):
        raise DataError(
            f"{option} names {', '.join(missing)}, but the {split} source has the columns {listed}; {option} holds "
            "for all sources, so rename columns in the files that call them otherwise"
        )
    names = {name: their for name, their in wanted(domain, config).items() if their in there}
    if {"reference", "prompt"} <= names.keys() and "problem" not in names:
        names["problem"] = names.pop("prompt")
    stand = {"reference", "problem"} <= names.keys()
    if not stand and not any(name in names for name in domain.columns):
        raise DataError(
            f"the {split} source has the columns {listed}, but wanted are {', '.join(domain.columns)}; say by "
            f"{option} which of them is which{_alike(domain.columns, there, option)}"
        )
    required = {*domain.columns} - {*domain.optional}
    if stand:
        spared = {"reference"} & {*domain.optional} if "problem" in domain.columns else set()
        required = {"prompt", "problem", "reference"} - spared
    elif absent := [name for name in domain.columns if name in required - names.keys()]:
        raise DataError(
            f"the {split} source has no column {', '.join(map(repr, absent))}; say by {option} which of "
            f"{listed} it is{_alike(absent, there, option)}"
        )
    looked_at = tables.PROMPTS.names if stand else ("id", *domain.columns)
    return Chosen({name: their for name, their in names.items() if name in looked_at}, frozenset(required), stand)


def _alike(names: Iterable[str], columns: Sequence[str], option: str) -> str:
    """Says which columns have a wanted name but for spaces, quotes and letter case, and how that is written."""
    plain = {name.strip("\ufeff\xa0\"' \t").casefold(): name for name in reversed(columns)}
    if not (found := {name: plain[name] for name in names if name in plain}):
        return ""
    pairs = ", ".join(
        f"{name}: {json.dumps(their, ensure_ascii=not their.isprintable())}" for name, their in found.items()
    )
    return f", such as {option}: {{{pairs}}}, or rename it in the file, without spaces behind commas"
