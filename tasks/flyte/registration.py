"""Versions that follow the environment of a registration, as they follow the sources.

Without `--version`, flytekit makes a version of the uploaded sources and of its own settings. What our modules read
from the environment becomes part of tasks and launch plans too. If it were no part of the version, a changed variable
would meet what is registered under the old one.
"""

import json
import sys
from collections.abc import Mapping

from images import IMAGES

REMOTE = "flytekit.remote.remote"
_read: dict[str, str] = {}


def enter(values: Mapping[str, str]) -> None:
    """Makes what was read from the environment, by its names, a part of the version of all that is registered."""
    _read.update(values)


def _follow_environment() -> None:
    """Adds what was read to what flytekit makes a version of, for which it has no hook."""
    if REMOTE not in sys.modules:
        return  # a pod, or a program that registers nothing
    from flytekit.remote import FlyteRemote

    of_sources = FlyteRemote._version_from_hash

    def version(md5_bytes: bytes, settings: object, default_inputs: object = None, *context: str) -> str:
        return str(of_sources(md5_bytes, settings, default_inputs, *context, json.dumps(_read, sort_keys=True)))

    FlyteRemote._version_from_hash = staticmethod(version)


enter(IMAGES)
_follow_environment()
