"""Object stores are reached with what Flyte is configured with, and nothing else."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks.prompts  # noqa: F401  # as `pyflyte run` and each pod of the stage import it
from tasks.gdsd.config.prompts import PromptConfig, PromptFile, TestConfig
from tasks.gdsd.errors import ConfigError, DataError
from tasks.gdsd.prompts.problems import make_prompts, make_test

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "flyte-only"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket of moto's server, which only Flyte's own variables lead to."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    endpoint = f"http://{address}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
            patch.delenv(f"AWS_{name}", raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        patch.setenv("FLYTE_AWS_ENDPOINT", endpoint)
        patch.setenv("FLYTE_AWS_ACCESS_KEY_ID", "key")
        patch.setenv("FLYTE_AWS_SECRET_ACCESS_KEY", "secret")
        files = s3fs.S3FileSystem(key="key", secret="secret", client_kwargs={"endpoint_url": endpoint})
        files.mkdir(BUCKET)
        table = make_test(TestConfig(test_size=4))
        files.pipe_file(f"{BUCKET}/p.jsonl", "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
        yield f"s3://{BUCKET}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("chain", ["", "simplecache::"], ids=["plain", "chained"])
def test_prompt_files_are_read_with_flytes_settings(chain: str, bucket: str) -> None:
    """If it fails, pods that reach their own inputs cannot read the problems that lie beside them."""
    file = PromptFile(path=f"{chain}{bucket}/p.jsonl")  # pinned by its content, as on the client
    config = PromptConfig(train_data=file, test_data=file, validation_size=1, test_size=4)
    made = make_prompts(config)
    assert made["test"].to_pylist() == make_test(TestConfig(test_size=4)).to_pylist()
    assert made["train"].num_rows == 4


POD = """
import logging, site, sys
from flytekit.bin.entrypoint import fast_execute_task_cmd

if sys.argv[1]:
    site.addsitedir(sys.argv[1])
else:
    logging.getLogger("flytekit").filters.clear()  # of an environment that has it already
fast_execute_task_cmd(["--additional-distribution", sys.argv[2], "--dest-dir", sys.argv[3], "--", "true"])
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_the_start_of_a_pod_logs_no_error(quiet: bool, bucket: str, tmp_path: Path) -> None:
    """If it fails, "Unclosed client session" stands in the log of every pod, and nobody heeds errors there."""
    import s3fs

    sources, place = tmp_path / "sources.tar.gz", tmp_path / "site"
    place.mkdir()
    shutil.copy(ROOT / "images/quiet.pth", place)
    with tarfile.open(sources, "w:gz"):
        pass
    client = {"endpoint_url": os.environ["FLYTE_AWS_ENDPOINT"]}
    s3fs.S3FileSystem(key="key", secret="secret", client_kwargs=client).put_file(
        str(sources), f"{bucket}/sources.tar.gz"
    )
    words = [str(place) if quiet else "", f"{bucket}/sources.tar.gz", str(tmp_path)]
    variables = os.environ | {"FLYTE_SDK_RICH_TRACEBACKS": "0"}
    command = [sys.executable, "-c", POD, *words]
    pod = subprocess.run(command, capture_output=True, text=True, timeout=120, env=variables)
    assert pod.returncode == 0, pod.stderr
    assert ("Unclosed client session" in pod.stderr + pod.stdout) is not quiet


def test_what_a_store_refuses_names_the_file(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a missing right ends in a stack trace of the store's library."""
    with pytest.raises(ConfigError, match=r"s3://polices/p\.jsonl' cannot be read to pin its content"):
        PromptFile(path="s3://polices/p.jsonl")
    pinned = PromptFile(path=f"{bucket}/p.jsonl")
    monkeypatch.delenv("FLYTE_AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("FLYTE_AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match=r"p\.jsonl' cannot be read to pin its content \(.*credentials"):
        PromptFile(path=f"{bucket}/p.jsonl")
    with pytest.raises(DataError, match=r"p\.jsonl' cannot be read \(.*credentials"):
        make_test(TestConfig(test_data=pinned))


def test_a_plan_is_made_of_a_config_whose_problems_lie_in_a_store(bucket: str, tmp_path: Path) -> None:
    """If it fails, `python -m tasks.describe` refuses what a run takes."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"prompts": {"train_data": {"path": f"{bucket}/p.jsonl"}, "validation_size": 1}}))
    code = f"from tasks import describe; print(describe.read({str(path)!r})[0].prompts.train_data.sha256)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == PromptFile(path=f"{bucket}/p.jsonl").sha256, done.stderr
