"""Nights by hand: starts the active launch plan now, and says how the last night ended, or that none has ended lately.

python -m tasks.nights start -p gdsd -d production
python -m tasks.nights start weekly_evaluation -p gdsd -d production
python -m tasks.nights last s3://bucket/registry --hours 26
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from flytekit.configuration import Config
from flytekit.configuration.file import get_config_file
from flytekit.configuration.internal import Platform

from tasks.flyte.ending import end_command_well
from tasks.gdsd.errors import ConfigError, GdsdError, RegistryError
from tasks.gdsd.registry.condition import damage
from tasks.gdsd.registry.registry import Registry
from tasks.gdsd.registry.store import in_words
from tasks.promote import open_registry
from tasks.schedule import NAMES, NIGHTLY_PLAN

LONGEST_H = 100_000  # more than eleven years


def start(plan: str, project: str, domain: str, config: str | None) -> str:
    """Starts the version of a launch plan that cron would start, with nothing but the time.

    Args:
        config: the client's configuration file; None for the one that `pyflyte` would take.

    Raises:
        ConfigError: no version is active, the client's configuration cannot be read, or Flyte does not answer or
            refuses.
    """
    import grpc
    from flytekit.exceptions.base import FlyteException
    from flytekit.remote import FlyteRemote  # which takes long to import

    client = _client(config)
    remote = FlyteRemote(client, default_project=project, default_domain=domain)
    try:
        active = remote.fetch_active_launchplan(name=plan)
        if active is None:
            raise ConfigError(
                f"no version of {plan} is active in {project} {domain}; activate one by "
                f"pyflyte launchplan -p {project} -d {domain} --activate {plan} VERSION"
            )
        execution = remote.execute(active, inputs={"kickoff_time": datetime.now(UTC).replace(microsecond=0)})
    except (FlyteException, grpc.RpcError, OSError) as error:  # the last of these is of a certificate or a login
        words = " ".join(str(error).split())
        raise ConfigError(f"Flyte at {client.platform.endpoint} did not start {plan}: {words:.500}") from error
    registry = active.fixed_inputs.literals["registry"].scalar.primitive.string_value
    return (
        f"{plan}, version {active.id.version}, with {registry}: started as {execution.id.name}\n"
        f"{remote.generate_console_url(execution)}"
    )


def _client(file: str | None) -> Config:
    """Reads where Flyte is; where no file says so, flytekit would take an address of its own."""
    where = f"the client's configuration {file or os.environ.get('FLYTECTL_CONFIG') or '~/.flyte/config.yaml'}"
    try:
        client, address = Config.auto(file), Platform.URL.read(get_config_file(file))
    except Exception as error:  # what reads it raises what it likes
        words = " ".join(str(error).split())
        raise ConfigError(f"{where} cannot be read ({type(error).__name__}: {words:.200}); correct it") from None
    if not isinstance(address, str):
        raise ConfigError(
            f"{where} does not say where Flyte is; write admin.endpoint into it, as docs/cluster.md shows, or name "
            "another file by -c"
        )
    return client


def last(registry: Registry, hours: float, now: datetime) -> str:
    """Says how the last night ended.

    Raises:
        RegistryError: none has ended for so many hours, or the registry cannot be read.
    """
    nights = registry.nights.all() if registry.exists() else []
    since = f"no night of {registry.url} has ended for {hours:g} hours"
    if not nights:
        raise RegistryError(
            f"{since}, and no earlier one is known; see the executions of {NIGHTLY_PLAN} in Flyte's console"
        )
    night = nights[-1]
    when = f"{night.ended.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if now - night.ended > timedelta(hours=hours):
        raise RegistryError(
            f"{since}: the last one ended at {when} ({night.outcome()}); see the executions of {NIGHTLY_PLAN} in "
            "Flyte's console, and whether a version is active"
        )
    return f"the night that ended at {when}: {night.outcome()} ({night.who})"


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours <= LONGEST_H:
        raise argparse.ArgumentTypeError(f"{text}: hours are from 0 to {LONGEST_H}")
    return hours


def main(arguments: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.nights", description="Nights by hand, and the last one.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    begin = commands.add_parser("start", help="start the active version of a launch plan, without waiting for its time")
    begin.add_argument("plan", nargs="?", default=NIGHTLY_PLAN, choices=NAMES, help="default: %(default)s")
    begin.add_argument("-p", "--project", required=True)
    begin.add_argument("-d", "--domain", required=True)
    begin.add_argument("-c", "--config", help="the client's configuration, as pyflyte -c takes it")
    ended = commands.add_parser("last", help="say how the last night ended; status 1 if that is too long ago")
    ended.add_argument("registry", help="path or URL of the registry")
    ended.add_argument("--hours", type=_hours, default=26, help="that may pass between two; default: %(default)s")
    given = parser.parse_args(arguments)
    said, wrong = [], list[str]()
    try:
        if given.command == "start":
            said.append(start(given.plan, given.project, given.domain, given.config))
        else:
            with in_words(given.registry):
                registry = open_registry(given.registry)
                wrong += damage(registry)
                said.append(last(registry, given.hours, datetime.now(UTC)))
    except GdsdError as error:
        wrong.append(str(error))
    for sentence in said:
        print(sentence)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    end_command_well()
    sys.exit(main(sys.argv[1:]))
