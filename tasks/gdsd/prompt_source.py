"""Reading problems from where they lie: a pinned file, or a pinned revision of a data set on the hub."""

import csv
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pyarrow as pa

from tasks.gdsd.config import HubDataset, PromptFile
from tasks.gdsd.errors import DataError

if TYPE_CHECKING:
    from datasets import Features

FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


def load(source: PromptFile | HubDataset) -> pa.Table:
    """Returns a source's rows with its own columns.

    Raises:
        DataError: it cannot be read, or is not what was pinned.
    """
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    return _load_hub(source) if isinstance(source, HubDataset) else _load_file(source)


def _load_hub(source: HubDataset) -> pa.Table:
    """Downloads through `datasets`, which since its version 4 runs no code of a data set."""
    from datasets import load_dataset

    try:
        loaded = load_dataset(source.hub, source.subset, split=source.split, revision=source.revision)
    except Exception as error:  # datasets and the hub's client raise dozens of kinds
        raise DataError(
            f"data set {source.hub!r} (subset {source.subset}, split {source.split!r}, revision {source.revision}) "
            f"cannot be loaded: {error}; check the names on the hub, or give a local file by path"
        ) from error
    return loaded.data.table.combine_chunks()


def _load_file(file: PromptFile) -> pa.Table:
    suffix = Path(file.path).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"prompt file {file.path!r} has the suffix {suffix!r}; use one of {', '.join(FORMATS)}")
    from datasets import load_dataset

    with tempfile.TemporaryDirectory(prefix="gdsd-prompts-") as folder:
        copy = Path(folder, f"prompts{suffix}")
        try:
            with fsspec.open(file.path, "rb") as source:
                copy.write_bytes(source.read())
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"prompt file {file.path!r} cannot be read ({error}); on a cluster give a URI that pods can reach"
            ) from error
        found = hashlib.sha256(copy.read_bytes()).hexdigest()
        if found != file.sha256:
            raise DataError(
                f"prompt file {file.path!r} has sha256 {found}, but {file.sha256} was pinned; restore it or pin anew"
            )
        try:
            options = {"features": _text_columns(copy)} if suffix == ".csv" else {}
            loaded = load_dataset(
                FORMATS[suffix],
                data_files=str(copy),
                split="train",
                cache_dir=str(Path(folder, "cache")),
                keep_in_memory=True,
                **options,
            )
        except Exception as error:  # datasets raises its own, pandas', Arrow's and plain errors for a malformed file
            raise DataError(f"prompt file {file.path!r} is not readable {FORMATS[suffix]}: {error}") from error
        return loaded.data.table.combine_chunks()


def _text_columns(file: Path) -> "Features":
    """Reads every cell of a CSV file as text: a solution such as 1234... is no number."""
    from datasets import Features, Value

    with file.open(newline="", encoding="utf-8") as source:
        return Features({name: Value("string") for name in next(csv.reader(source), [])})
