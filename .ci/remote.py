"""Runs a workflow locally and, unmodified, through a stand-in Flyte backend, and compares every number.

.venv/bin/python .ci/remote.py FOLDER_OF_THE_STAND_IN WORKFLOW CONFIG
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgpack

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
RECORDS = {"train": "run.json", "compare": "comparison.json"}  # what each workflow writes into its folder


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if "seconds" not in key}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def local(workflow: str, config: str, home: Path) -> object:
    """Returns the record of a local run."""
    command = [str(BIN / "pyflyte"), "run", "workflows/gdsd.py", workflow, "--config", config]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLYTE", "GDSD"))}
    done = subprocess.run(command, cwd=ROOT, env=kept | {"HOME": str(home)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the local run failed:\n{done.stdout}{done.stderr}")
    (record,) = home.glob(f".flyte/gdsd/*/{RECORDS[workflow]}")
    return json.loads(record.read_text())


def remote(double: Path, workflow: str, config: str, folder: Path) -> object:
    """Returns the record of a remote run, from the folder in the workflow's output literal."""
    sys.path.insert(0, str(double.resolve()))
    from admin import FlyteDouble

    with FlyteDouble(str(folder), bin_dirs=[str(BIN)], workers=2) as backend:
        command = [str(BIN / "pyflyte"), "-c", backend.config, "run", "--remote", "--wait", "--poll-interval", "1"]
        done = subprocess.run(
            [*command, "workflows/gdsd.py", workflow, "--config", config], cwd=ROOT, capture_output=True, text=True
        )
        if not backend.store.executions:
            sys.exit(f"nothing was submitted:\n{done.stdout}{done.stderr}")
        (execution,) = backend.store.executions.values()
        for attempt in execution.attempts:
            print(f"{attempt.node:60.60s} try {attempt.attempt} {attempt.seconds:6.1f} s {attempt.outcome}")
        if done.returncode or execution.phase != "SUCCEEDED":
            sys.exit(f"the remote run failed: {execution.error}\n{done.stdout}{done.stderr}")
        result = msgpack.loads(execution.outputs.literals["o0"].scalar.binary.value)
        return json.loads(Path(result["folder"]["path"], RECORDS[workflow]).read_text())


def say_overhead(here: object, there: object) -> None:
    """Prints what the rounds of a local and a remote run took beyond their work."""
    sys.path.insert(0, str(ROOT))
    from tasks.gdsd.run_record import RunRecord

    for where, record in (("locally", here), ("remotely", there)):
        print(f"overhead {where}: {RunRecord.model_validate_json(json.dumps(record)).overhead() or 'not timed'}")


def main() -> None:
    double, workflow, config = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    with tempfile.TemporaryDirectory(prefix="gdsd-remote-") as folder:
        records = (
            local(workflow, config, Path(folder, "home")),
            remote(double, workflow, config, Path(folder, "backend")),
        )
    if workflow == "train":
        say_overhead(*records)
    here, there = map(without_times, records)
    if here != there:
        sys.exit(f"local and remote run differ:\n{json.dumps(here)}\n{json.dumps(there)}")
    print(f"the remote {workflow} of {config} gives the numbers of the local one")


if __name__ == "__main__":
    main()
