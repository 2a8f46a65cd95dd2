"""Registries of each kind of store, and policies to put into them."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.records import Estimate
from tasks.gdsd.registry.kept import Origin
from tasks.gdsd.registry.registry import Registry

NIGHT = datetime(2026, 11, 24, 2, tzinfo=UTC)
GAIN = Estimate(mean=0.5, low=0.4, high=0.6)


@pytest.fixture(scope="package")
def s3() -> Iterator[str]:
    """The URL of a bucket of moto's server, which checks If-None-Match as S3 does.

    A worker may come to this package twice. Moto's buckets belong to the process and outlive their server, so each
    server gets a bucket of its own.
    """
    import logging

    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        bucket = f"policies-{uuid.uuid4().hex}"
        s3fs.S3FileSystem().mkdir(bucket)
        yield f"s3://{bucket}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place without a registry."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    return str(tmp_path / "registry") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def make_policy(folder: Path, content: str) -> Path:
    """A folder of the shape of a checkpoint; the registry does not look inside."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content.encode() * 1000)
    (folder / "adapter/weights").write_bytes(content.encode())
    return folder


def add(
    registry: Registry,
    folder: Path,
    parent: str | None = None,
    experiment: str = "sudoku",
    run: str = "runs/first",
    made: datetime = NIGHT,
) -> str:
    return registry.add(
        folder,
        parent=parent,
        made=made,
        origin=Origin(experiment=experiment, gain=GAIN, reason="better"),
        run=run,
        versions={"torch": "2"},
        evidence={"config": TrainConfig(), "solved": GAIN},
    )


def promote(registry: Registry, folder: Path, content: str) -> str:
    """Adds a policy and makes it the champion."""
    champion = registry.champion()
    entry = add(registry, make_policy(folder, content), champion)
    registry.promote(entry, against=champion, who="night", why="better")
    return entry


def place(registry: Registry, entry: str, name: str) -> Path:
    return Path(registry.policy(entry)).parent / name


def written(registry: Registry, name: str) -> bytes:
    data = registry._store.read(name)
    assert data is not None
    return data


def spoil(registry: Registry, name: str, how: str) -> None:
    """Does to a file what a person or a store may do."""
    data = written(registry, name)
    if how == "deleted":
        registry._store._fs.rm_file(registry._store._path(name))
    else:
        registry._store.write(name, {"truncated": data[:40], "empty": b"", "other": data.replace(b"ann", b"bob")}[how])
