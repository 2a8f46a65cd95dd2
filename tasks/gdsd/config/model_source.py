"""Where a published model lies, pinned so that it cannot change unnoticed, and how to come by its files.

A local folder is pinned by the SHA-256 of everything that is read from it. That reads all weights, with 1.3 GB/s and
core (measured) and shards in parallel. So an 8B model of 16 GB takes 13 s on one core and 3 s on four, and loading then
finds it in memory. A process reads a file again only when its size or times change. A cheaper digest of sizes and
headers would not notice other weights of the same shape. A model on the Hugging Face hub is pinned by its commit, which
names its content.

A folder may move, or lie elsewhere on another machine. Where its path does not lead to the pinned content, the folders
in the environment variable GDSD_MODELS, listed as in PATH, are searched for a folder of the same name that has it.
"""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from pydantic import Discriminator, Field, Tag, field_validator

from tasks.gdsd.errors import CheckpointError, ConfigError
from tasks.gdsd.strict import Config, local_or_hub

MODELS = "GDSD_MODELS"
# Data only: no Python, no pickles.
WEIGHTS = "*.safetensors"
FILES = ("*.json", WEIGHTS, "merges.txt", "vocab.txt", "*.jinja")
SETTLED_NS = 100_000_000  # file systems count in hundredths of a second: a younger file may change without a sign

_known: dict[tuple[str, int, int, int, int], str] = {}  # SHA-256 of files by path, inode, size and times


class ModelFolder(Config):
    """A model in a local folder, pinned by its content."""

    path: str = Field(min_length=1, description="folder with config.json, safetensors and tokenizer files")
    sha256: str = Field(
        default_factory=lambda data: _pin(data["path"]),
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of its content; computed when the configuration is loaded, if not given",
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        """A checkpoint that names the folder is read from other directories too."""
        return str(Path(path).expanduser().absolute())


class HubModel(Config):
    """A model on the Hugging Face hub, pinned by its revision."""

    hub: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="its id, such as GSAI-ML/LLaDA-8B-Instruct")
    revision: str = Field(pattern="^[0-9a-f]{40}$", description="the commit; a branch or a tag could move")


ModelSource = Annotated[
    Annotated[ModelFolder, Tag("path")] | Annotated[HubModel, Tag("hub")], Discriminator(local_or_hub)
]


def resolve(source: ModelFolder | HubModel, whole: bool = True) -> Path:
    """Returns the local folder of a model, downloaded first where it has to be, or found where GDSD_MODELS says.

    Without network (HF_HUB_OFFLINE=1) a revision that is in the cache of the hub's library is found there.

    Args:
        whole: whether weights have to be downloaded as well.

    Raises:
        CheckpointError: there is no such model, it cannot be reached, or its content is not the pinned one.
    """
    if isinstance(source, HubModel):
        return _download(source, [name for name in FILES if whole or name != WEIGHTS])
    path = Path(source.path)
    listed = os.environ.get(MODELS, "")
    others = [Path(folder).expanduser() / path.name for folder in listed.split(os.pathsep) if folder]
    seen = []
    for place in dict.fromkeys([path, *others]):
        try:
            found = digest(place)
        except (CheckpointError, OSError) as error:
            seen.append(str(error))
            continue
        if found == source.sha256:
            return place
        seen.append(f"the content of {place} has the SHA-256 {found}")
    raise CheckpointError(
        f"{path} with the SHA-256 {source.sha256} was pinned and is not to be found: {'; '.join(seen)}. Restore it, or "
        f"set {MODELS} (it is {listed!r}) to folders like PATH, one of which has that content in a folder {path.name}. "
        "To use another model, pin it; results of the two cannot be mixed."
    )


def digest(folder: Path) -> str:
    """Returns the SHA-256 of a model's files: of names and contents, in order of name.

    Raises:
        CheckpointError: there is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder, so there is no model in it")
    files = sorted(
        item for item in folder.iterdir() if item.is_file() and any(fnmatch(item.name, kind) for kind in FILES)
    )
    if not any(file.name == "config.json" for file in files):
        raise CheckpointError(f"{folder} has no config.json, so there is no model in it")
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        contents = list(pool.map(_sha256, files))
    total = hashlib.sha256()
    for file, content in zip(files, contents, strict=True):
        total.update(f"{file.name}\0{content}\0".encode())
    return total.hexdigest()


def _sha256(file: Path) -> str:
    began, state = time.time_ns(), file.stat()
    key = (str(file), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if key in _known:
        return _known[key]
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if began - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED_NS:
        _known[key] = found
    return found


def _pin(path: str) -> str:
    try:
        return digest(Path(path))
    except (CheckpointError, OSError) as error:
        raise ConfigError(
            f"model {path!r} cannot be read to pin its content ({error}); "
            "correct the path, or give its sha256 beside it if only the cluster can read it"
        ) from None


def _download(source: HubModel, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"{source.hub} at {source.revision}"
    try:
        folder = Path(snapshot_download(source.hub, revision=source.revision, allow_patterns=files))
    except GatedRepoError as error:
        raise CheckpointError(f"{what} is gated: accept its licence on the hub, and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{what}: the hub has no model {source.hub}, or none that HF_TOKEN may read") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{what}: the model has no such commit; copy all 40 digits from its page") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{what} is not in the local cache and the hub cannot be reached; download it where there is network, "
            f"or give a local folder instead ({error})"
        ) from error
    except Exception as error:  # also its transport has errors of its own, and a full disk another
        raise CheckpointError(f"{what} cannot be downloaded: {type(error).__name__}: {error}") from error
    if folder.name != source.revision:
        raise CheckpointError(f"{what}: the hub's library gave the revision {folder.name} instead")
    return folder
