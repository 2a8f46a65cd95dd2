"""Where a model or a policy lies, pinned so that it cannot change unnoticed, and how to come by its files.

A local folder is pinned by the SHA-256 of everything that is read from it. That reads all weights, with 1.3 GB/s and
core (measured) and shards in parallel. So an 8B model of 16 GB takes 13 s on one core and 3 s on four, and loading then
finds it in memory. A process reads a file again only when its size or times change. A cheaper digest of sizes and
headers would not notice other weights of the same shape. A model on the Hugging Face hub is pinned by its commit, which
names its content.

A folder may move, or lie elsewhere on another machine. Where its path does not lead to the pinned content, the folders
in the environment variable GDSD_MODELS, listed as in PATH, are searched for a folder of the same name that has it.

A folder may hold an adapter instead of a model, or beside it. Then the pin is also that of the adapter and its base.
"""

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from pydantic import Discriminator, Field, Tag, field_validator

from tasks.gdsd.config.written import PIN, require_there
from tasks.gdsd.errors import CheckpointError, ConfigError
from tasks.gdsd.strict import Config, Place, local_or_hub

MODELS = "GDSD_MODELS"
# Data only: no Python, no pickles.
WEIGHTS = "*.safetensors"
FILES = ("*.json", WEIGHTS, "merges.txt", "vocab.txt", "*.jinja")
OPTIMIZER = "optimizer.safetensors"  # beside a policy: another run does not read it
BASE = "base.json"  # beside an adapter: names the pinned model under it, in the place of its weights
ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
SETTLED_NS = 100_000_000  # file systems count in hundredths of a second: a younger file may change without a sign

_known: dict[tuple[str, int, int, int, int], str] = {}  # SHA-256 of files by path, inode, size and times


class ModelFolder(Config):
    """A model or a policy in a local folder, pinned by its content."""

    path: Place = Field(
        description="folder of a published model, `policy` of a run, or an adapter that names its base; relative to "
        "the configuration's file"
    )
    sha256: str = Field(
        default_factory=lambda data: _pin(data["path"]),
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of its content; computed when the configuration is loaded, if not given",
    )

    @field_validator("path")
    @classmethod
    def _check(cls, path: str) -> str:
        if "://" in path:
            raise ValueError(
                f"got {path!r:.200}; a model is read from a folder, and not from an address. Download it and name the "
                f"folder, which pods find on a volume that {MODELS} names; or push it to the hub, and name it by `hub` "
                "and `revision`"
            )
        return path


class HubModel(Config):
    """A model or a policy on the Hugging Face hub, pinned by its revision."""

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
    seen = []
    for place in _places(path):
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
        f"set {MODELS} (it is {os.environ.get(MODELS, '')!r}) to folders like PATH, one of which has that content in a "
        f"folder {path.name}. To use another model, pin it; results of the two cannot be mixed."
    )


def _places(path: Path) -> list[Path]:
    """Returns where a folder may lie: at its path, or under its name in a folder of GDSD_MODELS."""
    listed = os.environ.get(MODELS, "").split(os.pathsep)
    return list(dict.fromkeys([path, *(Path(folder).expanduser() / path.name for folder in listed if folder)]))


def digest(folder: Path) -> str:
    """Returns the SHA-256 of what is read of a model or policy: of names and contents, in order of name.

    An adapter's base counts too, by its own pin.

    Raises:
        CheckpointError: there is no such folder, or neither a model nor an adapter with a base in it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder, so there is no model in it")
    names = [name for item in folder.iterdir() if (name := item.name) != OPTIMIZER and _is_read(name)]
    names = sorted([*names, *(f"{ADAPTER}/{name}" for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))])
    files = {name: folder / name for name in names if (folder / name).is_file()}
    if not files.keys() & {"config.json", BASE, ADAPTER_CONFIG}:
        raise CheckpointError(f"{folder} has no config.json, so there is no model in it{inner(folder)}")
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        contents = list(pool.map(_sha256, files.values()))
    total = hashlib.sha256()
    for name, content in zip(files, contents, strict=True):
        total.update(f"{name}\0{content}\0".encode())
    if is_adapter(folder) and isinstance(base := base_of(folder), ModelFolder):
        total.update(f"base\0{base.sha256}\0".encode())
    return total.hexdigest()


def inner(folder: Path) -> str:
    """Returns what to do, for a message, where a run's folder was named and not the policy in it; otherwise nothing."""
    is_run = any((folder / "policy" / name).is_file() for name in ("config.json", BASE))
    return "; name the folder `policy` in it" if is_run else ""


def _is_read(name: str) -> bool:
    return any(fnmatch(name, kind) for kind in FILES)


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter in the form of the peft library, and nothing of its base."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).exists() for name in ("config.json", BASE))


def base_of(folder: Path) -> ModelFolder | HubModel:
    """Returns the model that an adapter's folder names as its base.

    Raises:
        CheckpointError: it names none that is pinned or to be had.
    """
    path = folder / ADAPTER_CONFIG
    try:
        found = json.loads(path.read_text())
        name, revision = found["base_model_name_or_path"], found.get("revision")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not say what the base is: {type(error).__name__}: {error}") from None
    if name == "..":
        raise CheckpointError(f"{folder} is an adapter whose base lies beside it; name {folder.parent} instead")
    if revision is not None:
        try:
            return HubModel.model_validate_json(json.dumps({"hub": name, "revision": revision}))
        except ConfigError as error:
            raise CheckpointError(f"{path} names no base on the hub: {error}") from None
    for place in _places(Path(name)) if isinstance(name, str) and name else ():
        if place.is_absolute() and (place / "config.json").is_file():
            return ModelFolder(path=str(place))
    raise CheckpointError(
        f"{path} names the base {name!r} without a revision, and there is no such folder. Write the folder's whole "
        f"path there, or set {MODELS} to the folder that it lies in; for a model on the hub, write its commit as "
        "`revision`"
    )


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
        require_there(path, "folder")
        return digest(Path(path))
    except ConfigError as error:
        raise ConfigError(f"{error}{PIN}") from None
    except (CheckpointError, OSError) as error:
        raise ConfigError(
            f"model {path!r} cannot be read to pin its content ({error}); correct the path{PIN}"
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
