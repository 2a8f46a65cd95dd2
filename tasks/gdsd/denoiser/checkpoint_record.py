"""What a checkpoint says of itself. Reading it needs no weights and no torch, which takes seconds to import."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tasks.gdsd.config.model_source import OPTIMIZER, ModelSource, inner
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.errors import CheckpointError, ConfigError
from tasks.gdsd.files import SUMS, damage
from tasks.gdsd.strict import Config

RECORD = "gdsd.json"
BESIDE = ("README.md", "config.yaml", "metrics.jsonl", "run.json")  # of its run, where a policy was pushed; not read


class CheckpointRecord(BaseModel):
    """What a checkpoint says of itself. It has no times, so that equal training gives equal bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    family: str
    round: int  # rounds of distillation behind this policy; 0 for a base
    updates: int  # optimizer updates that were applied
    skipped_in_a_row: int  # non-finite updates at the end of the last epoch
    adapter: bool = False  # whether the weights are a frozen base and an adapter beside it
    # Digest of the checkpoint that this one was trained from; of a base: that of the champion that it is, or the pin of
    # the policy whose adapter goes on, of which a hub's is a revision.
    parent: str | None
    made_with: dict[str, str]  # versions of the libraries that the weights depend on

    @field_validator("family", mode="before")
    @classmethod
    def _name(cls, family: object) -> object:
        return family.name if isinstance(family, Family) else family


def read_record(folder: Path) -> CheckpointRecord:
    """Reads what a checkpoint says of itself.

    Raises:
        CheckpointError: there is no record, or not one of this format.
    """
    try:
        return CheckpointRecord.model_validate_json((folder / RECORD).read_text())
    except OSError as error:
        said = f"{folder} is not a checkpoint: {RECORD} cannot be read ({error}){inner(folder)}"
        raise CheckpointError(said) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / RECORD} is not a checkpoint record: {error}") from error


def require_whole(folder: Path, moments: bool) -> None:
    """Refuses a checkpoint of which a file is missing or damaged; see `checkpoint.load`.

    Args:
        moments: whether the optimizer's are wanted.

    Raises:
        CheckpointError: naming the file.
    """
    wrong = damage(folder, BESIDE if moments else (*BESIDE, OPTIMIZER))
    if wrong is not None:
        raise CheckpointError(
            f"{wrong}. Copy the checkpoint again, or remove it and run again what made it; if you changed the file on "
            f"purpose, remove {SUMS}"
        )


class BaseRecord(Config):
    """Which pinned model stands under an adapter."""

    family: str
    source: ModelSource
    bits: Literal[4] | None = None  # in which the weights of its blocks were read, and have to be read again


def read_base(path: Path) -> BaseRecord:
    """Reads base.json.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return BaseRecord.model_validate_json(path.read_text())
    except (OSError, ValueError, ConfigError, ValidationError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
