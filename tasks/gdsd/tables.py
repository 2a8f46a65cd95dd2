"""The Arrow tables that travel between stages: their declared schemas, and reading and writing them as Parquet."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.gdsd.errors import DataError


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SPLITS = ("train", "validation", "test")  # of a run's problems, each a table of its own
PROMPTS = pa.schema(
    [
        _required("id", pa.string()),
        _required("prompt", pa.string()),  # what the policy reads
        _required("problem", pa.string()),  # what the verifier reads
        _required("reference", pa.string()),  # the right answer, for the verifier and the warm start
    ]
)
ROLLOUTS = pa.schema(
    [
        _required("prompt_id", pa.string()),
        _required("sample", pa.int32()),
        _required("problem", pa.string()),
        _required("reference", pa.string()),
        _required("prompt_ids", pa.list_(pa.int32())),
        _required("completion_ids", pa.list_(pa.int32())),
        _required("unmasked_at", pa.list_(pa.int32())),  # the sampler's step that unmasked each token
        _required("completion", pa.string()),
        _required("ended", pa.bool_()),  # whether the policy wrote an end token
        _required("engine", pa.string()),  # which made it
    ]
)
_VERDICT = [
    pa.field("reward", pa.float32()),  # null where the domain cannot judge
    pa.field("solved", pa.bool_()),
]
REWARDED = pa.schema(
    [
        *ROLLOUTS,
        *_VERDICT,
        pa.field("advantage", pa.float32()),  # null where there is nothing to compare with
    ]
)
ANSWERS = pa.schema(
    [
        _required("prompt_id", pa.string()),
        _required("sample", pa.int32()),
        _required("prompt", pa.string()),
        _required("problem", pa.string()),
        _required("reference", pa.string()),
        _required("completion", pa.string()),
        _required("ended", pa.bool_()),
        _required("steps", pa.int32()),  # denoiser calls
        _required("tokens", pa.list_(pa.string())),  # the text of each, ends included
        _required("unmasked_at", pa.list_(pa.int32())),  # the sampler's step that unmasked each
    ]
)
SAMPLES = pa.schema([*ANSWERS, *_VERDICT])
PART = "reward_"  # before the name of a part of the reward: a column each, beside those of REWARDED and SAMPLES
COMPARISON = pa.schema(
    [
        _required("prompt_id", pa.string()),
        _required("sample", pa.int32()),
        _required("prompt", pa.string()),
        _required("problem", pa.string()),
        _required("reference", pa.string()),
        _required("base_steps", pa.int32()),  # denoiser calls
        _required("trained_steps", pa.int32()),
        _required("base_tokens", pa.list_(pa.string())),  # the text of each, ends included
        _required("base_unmasked_at", pa.list_(pa.int32())),  # the sampler's step that unmasked each
        _required("base_completion", pa.string()),
        pa.field("base_reward", pa.float32()),
        pa.field("base_solved", pa.bool_()),
        _required("trained_tokens", pa.list_(pa.string())),
        _required("trained_unmasked_at", pa.list_(pa.int32())),
        _required("trained_completion", pa.string()),
        pa.field("trained_reward", pa.float32()),
        pa.field("trained_solved", pa.bool_()),
    ]
)
CURVES = pa.schema(
    [
        _required("contestant", pa.string()),
        _required("learning_rate", pa.float64()),
        _required("seed", pa.int64()),
        _required("split", pa.string()),  # validation where a learning rate was chosen, else test
        _required("round", pa.int32()),
        _required("problems", pa.int32()),
        _required("solved", pa.float64()),  # share
        _required("reward", pa.float64()),
        _required("rollout_reward", pa.float64()),  # mean reward of the round's own rollouts
        _required("seconds", pa.float64()),  # of the whole run's rollouts, rewards and distillation
    ]
)


def complete(schema: pa.Schema, columns: Iterable[str]) -> pa.Schema:
    """Returns a schema with those of a table's columns that are parts of a reward in it; they differ by domain."""
    prefixes = tuple(f"{name}_" for name in schema.names if name == "reward" or name.endswith("_reward"))
    parts = sorted(name for name in columns if name.startswith(prefixes))
    return pa.schema([*schema, *(pa.field(name, pa.float32()) for name in parts)])


def write(rows: list[dict[str, object]] | pa.Table, schema: pa.Schema, path: Path) -> Path:
    """Writes rows as Parquet with a declared schema, and the reward's parts if it has verdicts.

    Raises:
        DataError: the rows do not fit the schema.
    """
    try:
        schema = complete(schema, rows.column_names if isinstance(rows, pa.Table) else rows[0] if rows else [])
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema)
        table = table.select(schema.names).cast(schema)
        table.validate(full=True)
        pq.write_table(table, path, write_page_checksum=True)
    except (pa.ArrowException, KeyError, ValueError) as error:
        path.unlink(missing_ok=True)
        raise DataError(f"{path.name}: rows do not fit the schema {schema.names}: {error}") from error
    return path


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """Reads a Parquet file and refuses one whose columns are not exactly the declared ones, and the reward's parts.

    Raises:
        DataError: the file is no Parquet or damaged, or a column is missing, surplus or of another type.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        raise DataError(
            f"{path} ({size}) is not a readable Parquet file: {error}. It was cut off or damaged on its way; copy it "
            "again, or remove it and run again what made it"
        ) from error
    if not table.schema.equals(complete(schema, table.column_names)):
        raise DataError(f"{path} has the columns\n{table.schema}\nbut these are declared:\n{schema}")
    return table


def join(shards: Iterable[pa.Table]) -> pa.Table:
    """Joins the shards of a table of completions in one order, whatever their number."""
    return pa.concat_tables(shards).sort_by([("prompt_id", "ascending"), ("sample", "ascending")]).combine_chunks()
