"""Ties a server of processes to the run that has started it, while it loads what its copies need; it loads this first.

It watches its run only once it has loaded all, which takes seconds. Nothing here needs more than Python's library.
"""

import re
import sys

from tasks.gdsd.sandbox import lifeline

# Python starts it so. The second number is the pipe that is closed when the run and all copies have ended.
_SERVER = re.compile(r"from multiprocessing\.forkserver import main; main\(\d+, (\d+), ")

if (found := _SERVER.match(sys.orig_argv[-1])) is not None:
    lifeline.hold_on_to(int(found[1]))
