"""The Arrow tables that travel between stages: their declared schemas, and reading and writing them as Parquet."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.gdsd.errors import DataError

TEXT, TEXTS, NUMBER, NUMBERS = pa.string(), pa.list_(pa.string()), pa.int32(), pa.list_(pa.int32())
FLOATS = pa.list_(pa.float32())


def _required(**columns: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in columns.items()]


def _verdict(prefix: str = "") -> list[pa.Field]:
    """The reward, null where the domain cannot judge, whether an answer is right, and what the verifier saw."""
    return [
        pa.field(f"{prefix}reward", pa.float32()),
        pa.field(f"{prefix}solved", pa.bool_()),
        pa.field(f"{prefix}remark", TEXT),
    ]


SPLITS = ("train", "validation", "test")  # of a run's problems, each a table of its own
PROMPTS = pa.schema(
    _required(
        id=TEXT,
        prompt=TEXT,  # what the policy reads
        problem=TEXT,  # what the verifier reads
        reference=TEXT,  # the right answer, for the verifier and the warm start
    )
)
ROLLOUTS = pa.schema(
    _required(
        prompt_id=TEXT,
        sample=NUMBER,
        problem=TEXT,
        reference=TEXT,
        prompt_ids=NUMBERS,
        completion_ids=NUMBERS,
        unmasked_at=NUMBERS,  # the sampler's step that unmasked each token
        uncertainty=FLOATS,  # of the policy then, in nats; see `rollout.engines.base.Completion`
        completion=TEXT,
        ended=pa.bool_(),  # whether the policy wrote an end token
        engine=TEXT,  # which made it
    )
)
REWARDED = pa.schema(
    [*ROLLOUTS, *_verdict(), pa.field("advantage", pa.float32())]  # null where there is nothing to compare with
)
_ASKED = _required(prompt_id=TEXT, sample=NUMBER, prompt=TEXT, problem=TEXT, reference=TEXT, prompt_ids=NUMBERS)
ANSWERS = pa.schema(
    [
        *_ASKED,
        *_required(
            completion=TEXT,
            ended=pa.bool_(),
            steps=NUMBER,  # denoiser calls
            completion_ids=NUMBERS,
            tokens=TEXTS,  # the text of each, ends included
            unmasked_at=NUMBERS,  # the sampler's step that unmasked each
        ),
    ]
)
SAMPLES = pa.schema([*ANSWERS, *_verdict()])
PART = "reward_"  # before the name of a part of the reward: a column each, beside those of REWARDED and SAMPLES
COMPARISON = pa.schema(  # each column is as in SAMPLES, of the base or of the trained policy
    [
        *_ASKED,
        *_required(base_steps=NUMBER, trained_steps=NUMBER),
        *_required(base_completion_ids=NUMBERS, base_tokens=TEXTS, base_unmasked_at=NUMBERS, base_completion=TEXT),
        *_verdict("base_"),
        *_required(
            trained_completion_ids=NUMBERS, trained_tokens=TEXTS, trained_unmasked_at=NUMBERS, trained_completion=TEXT
        ),
        *_verdict("trained_"),
    ]
)
CURVES = pa.schema(
    _required(
        contestant=TEXT,
        learning_rate=pa.float64(),
        seed=pa.int64(),
        split=TEXT,  # validation where a learning rate was chosen, else test
        round=NUMBER,
        problems=NUMBER,
        solved=pa.float64(),  # share
        reward=pa.float64(),
        rollout_reward=pa.float64(),  # mean reward of the round's own rollouts, by the policy before its updates
        seconds=pa.float64(),  # of the whole run's rollouts, rewards and distillation
    )
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


def fingerprint(problems: pa.Table) -> str:
    """Returns a SHA-256 over a prompt table's rows, whatever the file that held them."""
    total = hashlib.sha256()
    for row in problems.select(["id", "prompt", "problem", "reference"]).to_pylist():
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return total.hexdigest()
