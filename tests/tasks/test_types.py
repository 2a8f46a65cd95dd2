"""What makes two checkpoints or tables the same to the cache."""

from pathlib import Path

import pytest
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks.flyte import types
from tasks.flyte.types import _content, stored, stored_file


def test_local_values_are_keyed_by_content(tmp_path: Path) -> None:
    """Otherwise recomputing a round identically recomputes everything after it, or an edited file goes unnoticed."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
    assert _content(FlyteDirectory(str(tmp_path / "a"))) == _content(FlyteDirectory(str(tmp_path / "b")))
    assert _content(FlyteFile(str(tmp_path / "a/file"))) == _content(str(tmp_path / "b/file"))
    (tmp_path / "b/file").write_text("other")
    assert _content(FlyteDirectory(str(tmp_path / "a"))) != _content(FlyteDirectory(str(tmp_path / "b")))


def test_values_in_an_object_store_are_keyed_by_address() -> None:
    """Otherwise two policies on S3 share one key, and the second is answered with the first one's numbers."""
    one, two = FlyteDirectory("s3://bucket/one"), FlyteDirectory("s3://bucket/two")
    assert _content(one) != _content(two)
    assert _content(one) == _content("s3://bucket/one")


def test_a_missing_path_has_no_key(tmp_path: Path) -> None:
    """Otherwise every missing folder has the key of the empty one."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        _content(FlyteDirectory(str(tmp_path / "nowhere")))


def test_a_checkpoint_keeps_its_key_when_only_its_address_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, other `validate_every` make a cluster train rounds again that begin at another place of a leg."""
    (tmp_path / "weights").write_text("same")
    assert stored(tmp_path).remote_directory is None
    monkeypatch.setattr(types, "in_pod", lambda: True)
    address = str(stored(tmp_path).remote_directory)
    assert _content(FlyteDirectory(f"s3://bucket{address}")) == _content(FlyteDirectory(str(tmp_path)))
    assert _content(FlyteDirectory(f"s3://bucket{address}/policy")) != _content(FlyteDirectory(str(tmp_path)))


def test_a_table_keeps_its_key_when_only_its_address_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a guard more, or another length of the evaluation, makes a cluster train all rounds again."""
    table = tmp_path / "train.parquet"
    table.write_text("same")
    assert stored_file(table).remote_path is None
    monkeypatch.setattr(types, "in_pod", lambda: True)
    address = str(stored_file(table).remote_path)
    assert _content(FlyteFile(f"s3://bucket{address}")) == _content(FlyteFile(str(table)))
