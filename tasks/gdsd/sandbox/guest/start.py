"""The script of a sandbox. Python compiles this file anew at every start, but not what it imports."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__[: -len("/tasks/gdsd/sandbox/guest/start.py")])
    from tasks.gdsd.sandbox.guest import launch

    launch.main()
