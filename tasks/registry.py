"""The registry of promoted policies on the command line: its champion and history, roll back, fetch, mend.

python -m tasks.registry s3://bucket/registry
python -m tasks.registry s3://bucket/registry rollback 3f2a9c --reason "answers got slow"
python -m tasks.registry s3://bucket/registry fetch policy
python -m tasks.registry s3://bucket/registry mend
"""

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tasks.flyte.ending import end_command_well
from tasks.gdsd.errors import RegistryError
from tasks.gdsd.registry.condition import damage, require_known
from tasks.gdsd.registry.kept import SHORT, Change
from tasks.gdsd.registry.registry import Registry
from tasks.gdsd.registry.store import in_words
from tasks.promote import open_registry


def describe(registry: Registry) -> str:
    """Returns the text: the champion, every change, what champions reached later, and entries that never were one."""
    places, entries = registry.log.places(), registry.entries()
    champions = {place.change.entry for place in places if place.change is not None}
    lines = [f"registry  {registry.url}"]
    try:
        require_known(registry)
    except RegistryError:
        lines.append("champion  not known, since the last record of the log is lost or in doubt")
    else:
        lines += _champion(registry, registry.log.head())
    lines += [
        "",
        *(f"{'':16}  lost         {place.damage}" if place.change is None else _line(place.change) for place in places),
    ]
    lines += [
        f"{_minute(one.when)}  evaluated    {one.entry[:SHORT]}  {line}"
        for one in registry.evaluations.all()
        for line in one.summary
    ]
    lines += [f"{_minute(one.ended)}  night        {one.outcome()}" for one in registry.nights.all()]
    if never := [entry for entry in entries if entry not in champions]:
        lines += ["", f"never champion: {', '.join(entry[:SHORT] for entry in never)}"]
    return "\n".join(lines)


def _champion(registry: Registry, head: Change | None) -> list[str]:
    if head is None:
        return ["champion  none yet; the first policy that the gate promotes will be"]
    return [
        f"champion  {head.entry}",
        f"since     {_minute(head.when)}",
        f"policy    {registry.policy(head.entry)}",
    ]


def _line(change: Change) -> str:
    before = change.previous[:SHORT] if change.previous else "unknown" if change.is_over_a_hole() else "none"
    return (
        f"{_minute(change.when)}  {change.action:11}  {change.entry[:SHORT]}  in place of {before:{SHORT}}  "
        f"by {change.who}: {change.why}"
    )


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.registry",
        description="The registry of promoted policies; without a command its champion and history, times in UTC.",
    )
    parser.add_argument("registry", help="path or URL of the registry")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    back = commands.add_parser("rollback", help="make an earlier entry the champion again")
    back.add_argument("entry", help="its id, or how that begins")
    back.add_argument("--reason", required=True, help="why, for the history")
    fetch = commands.add_parser("fetch", help="copy a policy into a new folder, compared with its digests")
    fetch.add_argument("entry", nargs="?", help="its id, or how that begins; default: the champion")
    fetch.add_argument("folder", type=Path, help="a folder that does not exist yet")
    commands.add_parser("mend", help="write records of the log that were lost or damaged again, from their copies")
    given = parser.parse_args(arguments)
    try:
        with in_words(given.registry):
            registry = _open(given.registry)
            said = _run(registry, given)
            wrong = damage(registry) if given.command in (None, "mend") else []
    except RegistryError as error:
        print(error, file=sys.stderr)
        return 1
    print(said)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


def _open(url: str) -> Registry:
    registry = open_registry(url)
    if not registry.exists():
        raise RegistryError(
            f"there is no registry at {registry.url}; correct the address. The first run of retrain that is given one "
            "makes it"
        )
    return registry


def _run(registry: Registry, given: argparse.Namespace) -> str:
    if given.command == "rollback":
        change = registry.roll_back(registry.find(given.entry), who=_who(), why=given.reason)
        return _line(change)
    if given.command == "fetch":
        if given.entry is None:
            require_known(registry)
        entry = registry.champion() if given.entry is None else registry.find(given.entry)
        if entry is None:
            raise RegistryError(f"{registry.url} has no champion yet")
        return f"{registry.fetch(entry, given.folder)} is {entry}"
    if given.command == "mend":
        registry.require_writable()
        written = [f"{address} is whole again" for address in registry.log.mend()]
        return "\n".join([*written, f"{len(written)} file{' was' if len(written) == 1 else 's were'} written again"])
    return describe(registry)


def _who() -> str:
    try:
        return getpass.getuser()
    except KeyError:  # in a container, whose user may have no name
        return f"user {os.getuid()}"


if __name__ == "__main__":
    end_command_well()
    sys.exit(main(sys.argv[1:]))
