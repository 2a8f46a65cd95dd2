"""A night from registration to mail, by the commands of docs/schedule.md, and what a pod refuses in words.

No version is given, so that it has to follow the environment.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.backend.state import Execution, key_of
from tests.cluster.stand_in import BUCKET, SMALL, Cluster, output
from tests.tasks.mail_server import MailServer

pytestmark = pytest.mark.cluster
PLACE = ("-p", "flytesnacks", "-d", "production")
NIGHTLY = SMALL | {"name": "nocturne", "rounds": 1, "rounds_per_task": 2, "judge": {"resamples": 100}}
FIRST, SECOND = f"s3://{BUCKET}/first", f"s3://{BUCKET}/second"

Write = Callable[[str, dict[str, Any]], Path]


@dataclass
class Night:
    """A night that was started by hand, and what was said around it."""

    registered: list[str]
    started: str
    execution: Execution
    mails: list[Message]


@pytest.fixture(scope="module")
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def night(cluster: Cluster, written: Write, mail_server: MailServer) -> Night:
    """Registers twice, with another registry and image the second time, and starts what is active then."""
    register = ("pyflyte", "-c", str(cluster.backend.config), "register", *PLACE, "--destination-dir", ".")
    given = {"GDSD_RETRAIN_CONFIG": str(written("nocturne", NIGHTLY)), "GDSD_NOTIFY": "ann@example.org"}
    registered = [
        cluster.call(*register, "--activate-launchplans", "workflows", **given, **variables)
        for variables in (
            {"GDSD_REGISTRY": FIRST},
            {"GDSD_REGISTRY": SECOND, "GDSD_CPU_IMAGE": "ours/gdsd:cpu-2", "GDSD_MAIL_SERVER": mail_server.url},
        )
    ]
    started = cluster.call("python", "-m", "tasks.nights", "start", *PLACE, "-c", str(cluster.backend.config))
    (name,) = re.findall(r"started as (\S+)", started)
    return Night(registered, started, cluster.ended(name), mail_server.mails)


def test_the_version_follows_the_environment(night: Night) -> None:
    """If it fails, a changed registry or image meets "with different structure already exists", or changes nothing."""
    first, second = (re.findall(r"Computed version is (\S+)", said) for said in night.registered)
    assert len(first) == len(second) == 1 and first != second
    assert night.execution.spec.launch_plan.version == second[0]
    assert night.execution.phase == "SUCCEEDED", night.execution.error
    assert output(night.execution)["registry"] == SECOND


def test_a_registration_says_what_will_run(night: Night, mail_server: MailServer) -> None:
    """If it fails, who registers learns at two in the morning which registry, experiment or image it was."""
    for said, rows in zip(
        night.registered,
        (
            [f"registry    {FIRST}", "images      gdsd:cpu, gdsd:gpu", "mails by    Flyte, since GDSD_MAIL_SERVER"],
            [f"registry    {SECOND}", "ours/gdsd:cpu-2, gdsd:gpu", f"mails by    {mail_server.url}, of its outcome"],
        ),
        strict=True,
    ):
        assert all(row in said for row in [*rows, "nocturne, of ", "mails to    ann@example.org", "files       none"])
        assert re.search(r"next time   \w+, \d{4}-\d\d-\d\d 02:00 UTC", said) and "Monday, " in said
    assert night.started.startswith("nightly_retrain, version ") and SECOND in night.started


def test_the_mail_says_what_came_of_it(cluster: Cluster, night: Night) -> None:
    """If it fails, a person has to open Flyte's console each morning to know whether the champion changed."""
    (mail,), decision = night.mails, cluster.record(night.execution, "run.json")["decision"]
    verb = "promoted" if decision["promoted"] else "not promoted"
    points = f"{100 * decision['solved_difference']['mean']:+.1f}"
    subject = " ".join(str(mail["Subject"]).split())
    assert subject.startswith("nocturne, night of ") and f": {verb}, {points} (" in subject
    text = mail.get_payload(decode=True).decode()
    assert mail["To"] == "ann@example.org" and decision["reason"] in text and night.execution.name in text
    said = cluster.call("python", "-m", "tasks.nights", "last", SECOND)
    assert f"{verb}, {points} (" in said and night.execution.name in said
    plan = cluster.backend.registry.plans[key_of(night.execution.spec.launch_plan)]
    (email,) = plan.spec.entity_metadata.notifications
    assert len(email.phases) == 3, "Flyte would mail that it succeeded beside the mail that says how"


def test_a_pod_refuses_a_registry_that_would_go_with_it(cluster: Cluster, written: Write) -> None:
    """If it fails, a night ends "promoted" in a folder that nobody sees again."""
    words = ("retrain", "--registry", "registry", "--kickoff_time", "now", "--config", written("nocturne", NIGHTLY))
    execution = cluster.start("lost", "workflows/retrain.py", *words).ended()
    assert execution.phase == "FAILED"
    assert execution.error.message == (
        "RegistryError: the registry (GDSD_REGISTRY, where nights are registered) 'registry' is no address in an "
        "object store, so that what is promoted would be lost with its pod; name a place such as s3://BUCKET/registry, "
        "by abfs://, abfss://, gs://, s3://"
    )
