"""Whether a policy knows the characters of problems, and has room for completions in what it was made for."""

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from tasks.gdsd.config.prompts import Room
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.domains.alphabet import of_texts
from tasks.gdsd.errors import DataError

logger = logging.getLogger(__name__)
EXAMPLES = 5
NAMED = 20  # problems that the log names for each cause


class Fitted(NamedTuple):
    """The problems of a table that a policy can be asked, and their prompts in tokens."""

    table: pa.Table
    longest: int
    mean: float
    left_out: int


def alphabet(asked: Iterable[pa.Table], rooms: Sequence[Room]) -> str:
    """Returns the characters of all prompts of a run, and of the references that the policy has to be able to write.

    Raises:
        DataError: there are too many.
    """
    columns = [
        problems[name]
        for problems, room in zip(asked, rooms, strict=True)
        for name in (("prompt", "reference") if room.writes_references else ("prompt",))
    ]
    return of_texts(text for column in columns for text in column.to_pylist())


def fit_all(denoiser: Denoiser, asked: Iterable[pa.Table], rooms: Sequence[Room]) -> list[Fitted]:
    """Measures tables of problems, each for the room that it needs; see `fit`."""
    return [fit(denoiser, problems, room) for problems, room in zip(asked, rooms, strict=True)]


def fit(denoiser: Denoiser, problems: pa.Table, room: Room) -> Fitted:
    """Measures the prompts of a table in tokens, as the policy's template phrases them; needs no weights.

    Args:
        problems: with the schema `tables.PROMPTS`.

    Raises:
        DataError: a prompt and its completion do not fit the model's positions, where it would go on without a sign
            that it reads what it was not trained for; or a prompt cannot be tokenised, or the reference not written,
            or not taught in a completion.
            Where these are left out: too few problems are left.
    """
    names = problems["id"].to_pylist()
    counts: dict[int, int] = {}  # row -> tokens, of those that the policy can read and write
    unread, untaught = dict[str, str](), dict[str, str]()  # id -> what is wrong
    for row, problem in enumerate(problems.select(["prompt", "reference"]).to_pylist()):
        try:
            count = _measure(denoiser, problem["prompt"], problem["reference"] if room.writes_references else "")
            answer = len(denoiser.encode(problem["reference"])) if room.teaches_references else 0
        except DataError as error:
            unread[names[row]] = f"\n  {names[row]!r}: {error}"[:300]
            continue
        if answer <= room.length:
            counts[row] = count
        else:
            untaught[names[row]] = f"\n  {names[row]!r}: the reference has {answer} tokens"
    kept = [row for row, count in counts.items() if count + room.length <= denoiser.positions]
    left_out = problems.num_rows - len(kept)
    if left_out and (room.unusable == "refuse" or len(kept) < room.least):
        raise DataError(_refusal(denoiser, names, counts, unread, untaught, len(kept), room))
    if left_out:
        fits = set(kept)
        causes = {
            "no room": [names[row] for row in counts if row not in fits],
            "characters that the policy lacks": list(unread),
            "a reference longer than a completion": list(untaught),
        }
        said = "; ".join(f"{len(ids)} for {why}: {_few(ids)}" for why, ids in causes.items() if ids)
        logger.info("prompts: %d of %d %s problems left out, %s", left_out, problems.num_rows, room.problems, said)
    tokens = [counts[row] for row in kept]
    table = problems.take(pa.array(kept, pa.int64()))
    return Fitted(table, max(tokens, default=0), sum(tokens) / max(len(tokens), 1), left_out)


def _few(ids: list[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more


def _measure(denoiser: Denoiser, prompt: str, answer: str) -> int:
    """Returns the tokens of a prompt.

    Raises:
        DataError: the prompt cannot be read, or the answer not written.
    """
    tokens = denoiser.encode(prompt)
    if (said := denoiser.lacking(answer)) is not None:
        raise DataError(f"the reference {said}")
    return len(tokens)


def _refusal(
    denoiser: Denoiser,
    names: list[str],
    counts: dict[int, int],
    unread: dict[str, str],
    untaught: dict[str, str],
    kept: int,
    room: Room,
) -> str:
    """Says what is wrong with problems, and what can be done."""
    said = []
    if over := len(counts) - kept:
        longest = max(counts, key=lambda row: counts[row])
        said.append(
            f"{over} of {len(names)} {room.problems} prompts are too long: the longest, {names[longest]!r}, has "
            f"{counts[longest]} tokens, and with completions of {room.length} ({room.sampler}.length) that is "
            f"{counts[longest] + room.length}, but the model was made for {denoiser.positions} "
            "(max_position_embeddings)."
        )
    if unread:
        listing = "".join(list(unread.values())[:EXAMPLES])
        said.append(f"{len(unread)} of {len(names)} {room.problems} problems cannot be read or answered:{listing}\n")
    if untaught:
        said.append(
            f"{len(untaught)} of {len(names)} {room.problems} problems have a reference that is longer than a "
            f"completion, which has {room.length} tokens:{''.join(list(untaught.values())[:EXAMPLES])}\n"
        )
    if room.unusable == "refuse":
        remedies = [f"leave such problems out by {room.section}.unusable: drop"]
    else:
        said.append(f"Without them {kept} are left, but at least {room.least} are needed.")
        remedies = ["give more problems"]
    if over:
        remedies.append(f"lower {room.section}.domain.shots or {room.sampler}.length")
        remedies.append("take a model with more positions")
    if unread:
        tiny = denoiser.family.name == "tiny"
        remedies.append("train a new policy by policy.tiny.alphabet: from_data" if tiny else "take another model")
    if untaught:
        remedies.append(f"raise {room.sampler}.length")
    first, *rest = remedies
    said.append(f"{first[0].upper()}{first[1:]}{''.join(f', {one}' for one in rest[:-1])}, or {rest[-1]}.")
    return " ".join(said)
