"""What of a run's settings is nobody else's business: where its files and services are, and where it is published."""

import re
from pathlib import PurePosixPath

from pydantic import JsonValue

NOWHERE = "http://service.invalid"  # a name that no host has
PINNED = {"path", "sha256"}  # of a model, a prompt file or a domain's module


def public(value: JsonValue) -> JsonValue:
    """Returns the JSON of a configuration or record for others to read.

    Of what is pinned by its content the path becomes the last name, and a module's folder is left out. The address of a
    service that scores answers becomes one that is nowhere. Trackers and the hub's repository are left out. What
    remains is a configuration of the same experiment.
    """
    if isinstance(value, list):
        return [public(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: public(item) for name, item in value.items()}
    if isinstance(path := found.get("path"), str) and found.keys() >= PINNED:
        if "://" in path:
            path = re.split("[?#]", path, maxsplit=1)[0]  # behind which an address may have its own key
        found["path"] = PurePosixPath(path).name
        found.pop("folder", None)
    if found.get("name") == "service" and isinstance(server := found.get("server"), dict):
        found["server"] = server | {"url": NOWHERE}
    if isinstance(publish := found.get("publish"), dict):
        found["publish"] = {name: item for name, item in publish.items() if name not in ("trackers", "hub")}
    return found
