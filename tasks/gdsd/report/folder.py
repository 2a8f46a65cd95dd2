"""Writes a run's folder."""

import json
from pathlib import Path

import pyarrow as pa

from tasks.gdsd import tables
from tasks.gdsd.report.page import render
from tasks.gdsd.report.style import as_yaml
from tasks.gdsd.run.provenance import Provenance
from tasks.gdsd.run.run_record import RunRecord


def write(folder: Path, record: RunRecord, samples: pa.Table, origin: Provenance) -> str:
    """Writes what a run leaves beside its policy; returns the page.

    These are report.html, metrics.jsonl, samples.parquet, config.yaml, run.json and environment.json.
    """
    page = render(record, samples, origin)
    (folder / "report.html").write_text(page, encoding="utf-8")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for row in record.metrics():
            file.write(json.dumps(row) + "\n")
    tables.write(samples, tables.COMPARISON, folder / "samples.parquet")
    (folder / "config.yaml").write_text(as_yaml(record.config), "utf-8")
    (folder / "run.json").write_text(record.model_dump_json(indent=2) + "\n", "utf-8")
    (folder / "environment.json").write_text(origin.model_dump_json(indent=2) + "\n", "utf-8")
    return page


def pair_samples(base: pa.Table, trained: pa.Table) -> pa.Table:
    """Puts the two policies' answers to a problem into one row of `tables.COMPARISON`; rows correspond already."""
    columns = {name: base[name] for name in ("prompt_id", "sample", "prompt", "problem", "reference", "prompt_ids")}
    for prefix, table in (("base", base), ("trained", trained)):
        parts = [name for name in table.column_names if name.startswith(tables.PART)]
        kept = ("steps", "completion_ids", "tokens", "unmasked_at", "completion", "reward", "solved", "remark", *parts)
        columns |= {f"{prefix}_{name}": table[name] for name in kept}
    return pa.table(columns, tables.complete(tables.COMPARISON, columns))
