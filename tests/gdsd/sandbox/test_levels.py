"""Which isolation is used, what is said where there is none, and which users programs get."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tasks.gdsd.errors import SandboxError
from tasks.gdsd.sandbox import levels, users
from tasks.gdsd.sandbox.guest import answer
from tasks.gdsd.sandbox.host import Limits, Route, Sandbox, StartError


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is known of what the system offers, neither before nor after the test."""
    levels._probe.cache_clear()
    levels._warn.cache_clear()
    yield
    levels._probe.cache_clear()
    levels._warn.cache_clear()


def test_it_refuses_to_run_without_its_guarantees(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, untrusted code runs less confined than the configuration says, or nobody learns what is missing."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxError) as caught:
        levels.choose("full")
    for word in ("'full'", "no bwrap", "nothing was run", "install bubblewrap", "'none'", "without a sandbox"):
        assert word in str(caught.value)
    with pytest.raises(StartError, match="needs root"):
        Sandbox(answer, Limits(10, 256, 4, 1), Route("none", privileged=False, drop=True))
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    levels._probe.cache_clear()
    with pytest.raises(SandboxError, match=r"full: there is no bwrap on the PATH; none: needs root"):
        levels.choose("none")


def test_the_sandbox_is_used_where_there_is_one_and_a_warning_given_where_not(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, who accepts no isolation gets none needlessly, or is not told that there is none."""
    ways = {level: Route(level, True, False) for level in levels.LEVELS}
    monkeypatch.setattr(levels, "offered", lambda level: (ways.get(level), "missing"))
    assert levels.choose("none").level == "full" and not caplog.messages
    del ways["full"]
    assert levels.choose("none").level == levels.choose("none").level == "none"
    (said,) = caplog.messages
    assert "WITHOUT A SANDBOX" in said and "full: missing" in said and "network" in said


def test_user_ids_lie_high_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a program runs as a service of the host, or its processes are another's and counted with them."""
    assert (users.span() or (users.FIRST, users.LAST))[0] >= 5000
    monkeypatch.setattr(users, "span", lambda: (65500, 65537))  # a small map, which ends where nobody lives
    with ExitStack() as stack:
        lent = {stack.enter_context(users.lent()) for _ in range(35)}
    assert lent == {*range(65500, 65536)} - {users.NOBODY} and not users.taken
