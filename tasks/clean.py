"""Removes what local runs have made: their data in GDSD_HOME, and temporary folders that killed ones have left.

    python -m tasks.clean

It names each folder, and leaves what a person has put beside them or has renamed. What is still wanted is computed
again.
"""

import sys
import tempfile
from pathlib import Path

from tasks.flyte import folders
from tasks.gdsd.errors import StorageError


def main() -> int:
    """Runs the command; returns the exit status."""
    count, kept = 0, False
    for folder in folders.left_behind(Path(tempfile.gettempdir())):
        if folders.remove(folder):
            print(folder)
            count += 1
        else:
            print(f"{folder} cannot be removed as a whole", file=sys.stderr)
            kept = True
    try:
        for path in folders.clean(folders.home()) if folders.home().is_dir() else ():
            print(path)
            count += 1
    except (OSError, StorageError) as error:
        print(error, file=sys.stderr)
        kept = True
    if kept:
        return 1
    for folder in folders.alike(folders.home()):
        print(f"left {folder}, since no run of this version has made a folder of this name there")
    print(f"removed {count} of runs that have ended" if count else f"nothing of a run is in {folders.home()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
