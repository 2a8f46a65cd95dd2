"""The script of a sandbox: this file is compiled anew at every start, what it imports is not."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__[: -len("/tasks/gdsd/sandbox/guest/start.py")])
    from tasks.gdsd.sandbox.guest import launch

    launch.main()
