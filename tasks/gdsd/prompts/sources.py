"""Reading problems from where they lie: a pinned file, or a pinned revision of a data set on the hub."""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from tasks.gdsd import files
from tasks.gdsd.config.prompts import HubDataset, PromptFile, Source
from tasks.gdsd.errors import DataError
from tasks.gdsd.prompts import formats
from tasks.gdsd.prompts.formats import Rows

FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


def load(source: Source, wanted: Collection[str]) -> Rows:
    """Returns a source's rows, with those of its own columns that are wanted.

    Raises:
        DataError: it cannot be read, or is not what was pinned.
    """
    return _load_hub(source, wanted) if isinstance(source, HubDataset) else _load_file(source, wanted)


def _load_hub(source: HubDataset, wanted: Collection[str]) -> Rows:
    """Downloads through `datasets`, which since its version 4 runs no code of a data set."""
    from datasets import load_dataset_builder
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    what = f"data set {source.hub!r} (subset {source.subset}, split {source.split!r}, revision {source.revision})"
    try:
        builder = load_dataset_builder(source.hub, source.subset, revision=source.revision)
        # Where the hub does not answer, datasets takes whatever revision it has cached, and a local folder of the
        # data set's name before all else.
        if builder.hash == source.revision:
            builder.download_and_prepare()
            return formats.from_table(builder.as_dataset(split=source.split).data.table, wanted)
    except Exception as error:  # datasets and the hub's client raise dozens of kinds
        raise DataError(
            f"{what} cannot be loaded: {_reason(error)}; check the names on the hub, or give a local file by path"
        ) from error
    raise DataError(
        f"{what} cannot be had: instead there is {builder.hash} in the cache or in a local folder of this name; "
        "check the revision and whether the hub can be reached, and rename such a folder"
    )


def _load_file(file: PromptFile, wanted: Collection[str]) -> Rows:
    suffix = Path(file.path).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"prompt file {file.path!r} has the suffix {suffix!r}; use one of {', '.join(FORMATS)}")
    with tempfile.TemporaryDirectory(prefix="gdsd-prompts-") as folder:
        copy = Path(folder, f"prompts{suffix}")
        try:
            with files.open_file(file.path) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        except Exception as error:  # each store's library raises what it likes
            raise DataError(
                f"prompt file {file.path!r} cannot be read ({error}); on a cluster give a URI that pods can reach"
            ) from error
        found = files.digest(copy)
        if found != file.sha256:
            raise DataError(
                f"prompt file {file.path!r} has sha256 {found}, but {file.sha256} was pinned; "
                "restore it, or run a configuration without its `sha256` to take the file as it is"
            )
        try:
            return formats.read(copy, wanted)
        except (DataError, pa.ArrowException, OSError) as error:
            raise DataError(
                f"prompt file {file.path!r} is not readable {FORMATS[suffix]} with at least one row: {error}"
            ) from None


def _reason(error: BaseException) -> BaseException:
    """What an error came of; datasets says of most that an error occurred."""
    return error if error.__cause__ is None else _reason(error.__cause__)
