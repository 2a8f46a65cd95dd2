"""Rounds in memory: the same numbers as stage by stage, and nothing lost wherever they are interrupted."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from pydantic import TypeAdapter

from tasks.gdsd.denoiser import networks
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.errors import SandboxError
from tasks.gdsd.resident.state import FILE
from tasks.gdsd.sandbox import levels
from tests.gdsd.resident.cases import Case, prepare, resident, staged

DRIFT = {"sample": 8, "agreement": 0.01}
CASES = {
    "gdsd": Case(),
    "gdsd with an adapter": Case(adapter=True, shards=2),
    "without an average": Case(ema_decay=0.0, shards=4),
    "espo": Case(objective={"name": "espo"}),
    "spg": Case(objective={"name": "spg"}, adapter=True),
    "wd1": Case(objective={"name": "wd1"}),
    "diffu_grpo": Case(objective={"name": "diffu_grpo"}, adapter=True),
    "prefix cache": Case(engine={"name": "prefix_cache", "drift": DRIFT}),
    "dual cache that drifts": Case(engine={"name": "dual_cache", "drift": {**DRIFT, "agreement": 1.0}}),
    "a published model": Case(model="llada", adapter=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_numbers_are_those_of_the_stages(case: Case, tmp_path: Path) -> None:
    """If it fails, a run in memory is another experiment than the one it stands for."""
    rounds = prepare(tmp_path / "case", case)
    assert resident(rounds, tmp_path / "case") == staged(rounds, tmp_path / "staged")


@pytest.mark.parametrize("adapter", [False, True])
def test_they_are_so_in_half_precision(adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a published model samples in bfloat16; what is trained as a whole stays float32 meanwhile."""
    monkeypatch.setattr(networks, "precision", lambda *_: torch.bfloat16)
    rounds = prepare(tmp_path / "case", Case(model="llada", adapter=adapter, compute={"precision": "bfloat16"}))
    assert resident(rounds, tmp_path / "case") == staged(rounds, tmp_path / "staged")


def test_processes_share_the_rounds(tmp_path: Path) -> None:
    """If it fails, one of several GPUs trains on other completions than it should, or with another's moments."""
    compute: dict[str, object] = {"processes": 2, "sharding": "fsdp"}
    case = Case(shards=4, adapter=True, engine={"name": "dual_cache", "drift": DRIFT}, compute=compute)
    rounds = prepare(tmp_path / "case", case)
    assert resident(rounds, tmp_path / "case") == staged(rounds, tmp_path / "staged")


class Interrupted(Exception):
    """The machine is taken away, so to speak."""


@dataclass
class Until:
    """Counts the states that are kept, and ends the process after one of them."""

    last: int
    number: int = 0

    def __call__(self, _: Path) -> None:
        self.number += 1
        if self.number == self.last:
            raise Interrupted


@pytest.mark.parametrize("adapter", [False, True])
def test_an_interruption_after_any_update_or_round_changes_nothing(adapter: bool, tmp_path: Path) -> None:
    """If it fails, a run that lost its machine ends otherwise, or makes rounds twice."""
    rounds = prepare(tmp_path / "case", Case(adapter=adapter, compute={"save_minutes": 0.0}))
    whole = Until(0)
    expected = resident(replace(rounds, send=whole), tmp_path / "case")
    assert whole.number == 6  # two updates and the end of each of two rounds
    for last in range(1, whole.number + 1):
        folder = tmp_path / f"until-{last}"
        folder.mkdir()
        kept = replace(rounds, file=folder / "kept" / FILE)
        with pytest.raises(Interrupted):
            resident(replace(kept, send=Until(last)), folder / "first")
        sent = Until(0)
        assert resident(replace(kept, send=sent), folder) == expected
        assert sent.number == whole.number - last


@pytest.mark.parametrize("damage", ["cut off", "of other rounds", "no archive"])
def test_a_state_that_is_of_no_use_costs_no_more_than_its_rounds(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a full disk or another configuration's state ends a run, or is trained on."""
    rounds = prepare(tmp_path / "case", Case())
    expected = resident(rounds, tmp_path / "case")
    state = rounds.file.read_bytes()
    if damage == "cut off":
        rounds.file.write_bytes(state[: len(state) // 2])
    elif damage == "no archive":
        rounds.file.write_bytes(b"{}")
    else:
        rounds = replace(rounds, key="another")
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    again = tmp_path / "again"
    again.mkdir()
    assert resident(rounds, again) == expected
    assert "made anew" in caplog.text


def test_what_cannot_be_judged_here_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """If it fails, a GPU makes a round of code answers that its machine has no sandbox for."""
    rounds = prepare(tmp_path / "case", Case())
    code = TypeAdapter(DomainChoice).validate_python({"name": "code"})
    config = rounds.config.model_copy(update={"domain": code})
    rounds = replace(rounds, config=config, policy=tmp_path / "nothing")
    nothing = mock.patch.object(levels, "offered", return_value=(None, "there is no bubblewrap"))
    with nothing, pytest.raises(SandboxError, match="no bubblewrap"):
        resident(rounds, tmp_path / "case")
