"""Removes what local runs have made: their data in GDSD_HOME, and temporary folders that killed ones have left.

    python -m tasks.clean

It names each folder, and leaves what a person has put beside them. What is still wanted is computed again.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from tasks.flyte import folders
from tasks.gdsd.errors import StorageError


def main() -> int:
    """Runs the command; returns the exit status."""
    count = 0
    for folder in folders.left_behind(Path(tempfile.gettempdir())):
        shutil.rmtree(folder, ignore_errors=True)
        print(folder)
        count += 1
    try:
        for path in folders.clean(folders.home()):
            print(path)
            count += 1
    except FileNotFoundError:  # no run was ever there
        pass
    except (OSError, StorageError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"removed {count} of runs that have ended" if count else f"nothing of a run is in {folders.home()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
