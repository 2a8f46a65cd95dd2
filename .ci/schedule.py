"""Runs the schedule through a stand-in Flyte backend, with the registry on moto's S3 server, and looks at the registry.

.venv/bin/python .ci/schedule.py FOLDER_OF_THE_STAND_IN

The launch plans are registered and activated as docs/cluster.md says, and started as cron starts them: by name, with nothing
but the time. No time passes in the stand-in, so cron itself is not tried.
"""

import logging
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgpack
import s3fs
from flytekit.configuration import Config
from flytekit.remote import FlyteRemote
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
REGISTRY = "s3://policies/registry"
PROJECT, DOMAIN = "flytesnacks", "development"
# Three rounds that gain a few points, and a gate that is content with them.
NIGHTLY = """
name: nightly
rounds: 3
validate_every: 3
prompts: {train_size: 1536, validation_size: 64, test_size: 256}
judge: {resamples: 1000, confidence: 0.6}
"""
WEEKLY = "prompts: {test_size: 256}\n"


def call(*words: str, **variables: str) -> str:
    """Runs a command of the environment in the project's folder and returns what it says."""
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    sys.path[:0] = [str(ROOT), str(Path(sys.argv[1]).resolve())]
    from admin import FlyteDouble

    from tasks.promote import open_registry

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    access = {
        "FLYTE_AWS_ENDPOINT": f"http://{address}:{port}",
        "FLYTE_AWS_ACCESS_KEY_ID": "key",
        "FLYTE_AWS_SECRET_ACCESS_KEY": "secret",
    }
    os.environ |= access
    s3fs.S3FileSystem(key="key", secret="secret", client_kwargs={"endpoint_url": access["FLYTE_AWS_ENDPOINT"]}).mkdir(
        "policies"
    )
    with tempfile.TemporaryDirectory(prefix="gdsd-schedule-") as name:
        folder = Path(name)
        (folder / "nightly.yaml").write_text(NIGHTLY)
        (folder / "weekly.yaml").write_text(WEEKLY)
        with FlyteDouble(str(folder / "backend"), bin_dirs=[str(BIN)], workers=2, task_env=access) as backend:
            call(
                *("pyflyte", "-c", backend.config, "register", "-p", PROJECT, "-d", DOMAIN, "--version", "v1"),
                *("--activate-launchplans", "workflows"),
                GDSD_REGISTRY=REGISTRY,
                GDSD_RETRAIN_CONFIG=str(folder / "nightly.yaml"),
                GDSD_WEEKLY_CONFIG=str(folder / "weekly.yaml"),
            )
            remote = FlyteRemote(Config.auto(backend.config), default_project=PROJECT, default_domain=DOMAIN)

            def start(plan: str, when: datetime) -> dict[str, object]:
                """Runs a launch plan to its end and returns its output."""
                launched = remote.execute(remote.fetch_launch_plan(name=plan), inputs={"kickoff_time": when})
                execution = backend.store.executions[launched.id.name]
                execution.done.wait(1800)
                if execution.phase != "SUCCEEDED":
                    sys.exit(f"{plan} of {when} is {execution.phase}: {execution.error}")
                print(f"{plan} of {when:%Y-%m-%d}: {len(execution.attempts)} tasks", flush=True)
                return msgpack.loads(execution.outputs.literals["o0"].scalar.binary.value)

            registry = open_registry(REGISTRY)
            first = start("nightly_retrain", datetime(2026, 11, 24, 2, tzinfo=UTC))
            assert first["promoted"] and first["champion"] == registry.champion(), first["run"]["record"]["decision"]
            second = start("nightly_retrain", datetime(2026, 11, 25, 2, tzinfo=UTC))
            reached = [run["run"]["record"][which]["solved"] for run, which in ((first, "trained"), (second, "base"))]
            assert reached[0] == reached[1], f"the second night did not start from the champion: {reached}"
            assert second["champion"] == registry.champion()
            assert registry.history()[-1].previous == (first["champion"] if second["promoted"] else None)
            week = start("weekly_evaluation", datetime(2026, 11, 30, 14, tzinfo=UTC))
            (kept,) = registry.evaluations()
            assert kept.entry == week["champion"] == second["champion"]
            if second["promoted"]:
                call("python", "-m", "tasks.registry", REGISTRY, "rollback", first["champion"], "--reason", "a trial")
                assert registry.champion() == first["champion"]
            print(call("python", "-m", "tasks.registry", REGISTRY))
    server.stop()


if __name__ == "__main__":
    main()
