"""Tables at rest: half of one, or one with a wrong bit, is refused by name."""

from pathlib import Path

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.errors import DataError
from tests.gdsd.checkpoints import damage
from tests.gdsd.conftest import build
from tests.gdsd.epochs import rewarded


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, pa.Table]:
    table = rewarded(build())
    return tables.write(table, tables.REWARDED, tmp_path / "rewarded.parquet"), table


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "garbage"])
def test_half_a_table_is_refused(kind: str, written: tuple[Path, pa.Table]) -> None:
    """If it fails, half an upload ends in a stack trace of another library, or trains on what is there of it."""
    path, table = written
    assert tables.read(path, tables.REWARDED).equals(table)
    damage(path, kind)
    with pytest.raises(DataError, match="run again what made it") as refused:
        tables.read(path, tables.REWARDED)
    assert str(path) in str(refused.value)
    assert ("no file" in str(refused.value)) == (kind == "missing")


def test_one_wrong_bit_in_its_data_is_found(written: tuple[Path, pa.Table]) -> None:
    """If it fails, a reward or a token that a disk has changed is trained on.

    The first half of the file holds data; behind it are the names and places of the columns.
    """
    path, table = written
    content = path.read_bytes()
    found = 0
    for place in range(40, len(content) // 2, 97):
        wrong = bytearray(content)
        wrong[place] ^= 4
        path.write_bytes(wrong)
        try:
            assert tables.read(path, tables.REWARDED).equals(table), f"byte {place} changes the table unseen"
        except DataError:
            found += 1
    assert found > 10
