"""Reading problems from where they lie: a pinned file, or a pinned revision of a data set on the hub."""

import csv
import tempfile
from pathlib import Path

import pyarrow as pa

from tasks.gdsd import files
from tasks.gdsd.config.prompts import HubDataset, PromptFile, Source
from tasks.gdsd.errors import DataError

FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


def load(source: Source) -> pa.Table:
    """Returns a source's rows with its own columns.

    Raises:
        DataError: it cannot be read, or is not what was pinned.
    """
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    return _load_hub(source) if isinstance(source, HubDataset) else _load_file(source)


def _load_hub(source: HubDataset) -> pa.Table:
    """Downloads through `datasets`, which since its version 4 runs no code of a data set."""
    from datasets import load_dataset_builder

    what = f"data set {source.hub!r} (subset {source.subset}, split {source.split!r}, revision {source.revision})"
    try:
        builder = load_dataset_builder(source.hub, source.subset, revision=source.revision)
        # Where the hub does not answer, datasets takes whatever revision it has cached, and a local folder of the
        # data set's name before all else.
        if builder.hash == source.revision:
            builder.download_and_prepare()
            return builder.as_dataset(split=source.split).data.table.combine_chunks()
    except Exception as error:  # datasets and the hub's client raise dozens of kinds
        raise DataError(
            f"{what} cannot be loaded: {_reason(error)}; check the names on the hub, or give a local file by path"
        ) from error
    raise DataError(
        f"{what} cannot be had: instead there is {builder.hash} in the cache or in a local folder of this name; "
        "check the revision and whether the hub can be reached, and rename such a folder"
    )


def _load_file(file: PromptFile) -> pa.Table:
    suffix = Path(file.path).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"prompt file {file.path!r} has the suffix {suffix!r}; use one of {', '.join(FORMATS)}")
    from datasets import load_dataset

    with tempfile.TemporaryDirectory(prefix="gdsd-prompts-") as folder:
        copy = Path(folder, f"prompts{suffix}")
        try:
            with files.open_file(file.path) as source:
                copy.write_bytes(source.read())
        except Exception as error:  # each store's library raises what it likes
            raise DataError(
                f"prompt file {file.path!r} cannot be read ({error}); on a cluster give a URI that pods can reach"
            ) from error
        found = files.digest(copy)
        if found != file.sha256:
            raise DataError(
                f"prompt file {file.path!r} has sha256 {found}, but {file.sha256} was pinned; restore it or pin anew"
            )
        try:
            options = _csv_options(copy) if suffix == ".csv" else {}
            loaded = load_dataset(
                FORMATS[suffix],
                data_files=str(copy),
                split="train",
                cache_dir=str(Path(folder, "cache")),
                keep_in_memory=True,
                **options,
            )
        except Exception as error:  # datasets raises its own, pandas', Arrow's and plain errors for a malformed file
            raise DataError(
                f"prompt file {file.path!r} is not readable {FORMATS[suffix]} with at least one row: {_reason(error)}"
            ) from error
        return loaded.data.table.combine_chunks()


def _reason(error: BaseException) -> BaseException:
    """What an error came of; datasets says of most that an error occurred."""
    return error if error.__cause__ is None else _reason(error.__cause__)


def _csv_options(file: Path) -> dict[str, object]:
    """Reads every cell of a CSV file as text: a solution such as 1234... is no number, and the answer None not null."""
    from datasets import Features, Value

    with file.open(newline="", encoding="utf-8-sig") as source:
        features = Features({name: Value("string") for name in next(csv.reader(source), [])})
    return {"features": features, "keep_default_na": False, "na_values": [""]}
