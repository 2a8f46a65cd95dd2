"""Removes what local runs have made: their data in GDSD_HOME, and temporary folders that killed ones have left.

    python -m tasks.clean

It names each folder, and leaves what a person has put beside them or has renamed. What is still wanted is computed
again.
"""

import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tasks.flyte import folders
from tasks.gdsd.errors import StorageError


def main() -> int:
    """Runs the command; returns the exit status."""
    home, count, kept = folders.home(), 0, False
    try:
        for folder in chain(_temporary(), folders.clean(home) if home.is_dir() else ()):
            if folder.exists():
                print(f"{folder} cannot be removed as a whole; remove it by hand", file=sys.stderr)
                kept = True
            else:
                print(folder)
                count += 1
    except (OSError, StorageError) as error:
        print(error, file=sys.stderr)
        kept = True
    if kept:
        return 1
    for folder in folders.alike(home):
        print(f"left {folder}, since no run of this version has made a folder of this name there")
    print(f"removed {count} of runs that have ended" if count else f"nothing of a run is in {home}")
    return 0


def _temporary() -> Iterator[Path]:
    """Removes the temporary folders of runs that have ended, and yields each."""
    for folder in folders.left_behind(Path(tempfile.gettempdir())):
        folders.remove(folder)
        yield folder


if __name__ == "__main__":
    sys.exit(main())
