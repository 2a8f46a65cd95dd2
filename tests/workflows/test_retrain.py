"""Training on a schedule as its user meets it: nights in a row, a gate that says no, rollback, kill, the week's score.

Runs are very small and happen in this process. Their policies solve next to nothing, so the gate's last word is made
up.
"""

import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from flytekit.types.directory import FlyteDirectory

from tasks import mail
from tasks import nights as by_hand
from tasks import registry as command
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import RegistryError, StaleError
from tasks.gdsd.records import Estimate
from tasks.gdsd.registry.kept import Origin
from tasks.gdsd.registry.log import Log
from tasks.gdsd.registry.registry import Registry
from tasks.promote import RetrainResult, draw_seeds
from tests.tasks.mail_server import MailServer
from tests.workflows.conftest import Pyflyte, quick_runs, without_times

CONFIG = TrainConfig.model_validate_json(
    json.dumps(
        {
            "name": "nightly",
            "rounds": 1,
            "prompts": {"train_size": 8, "validation_size": 4, "test_size": 24},
            "policy": {
                "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
                "warm_start": {"steps": 40, "batch_size": 32, "learning_rate": 0.02},
            },
            "rollout": {"prompts_per_round": 4, "sampler": {"steps_per_block": 4}},
            "distill": {"learning_rate": 0.05, "warmup_steps": 0},
            "evaluation": {"sampler": {"steps_per_block": 4}},
            "judge": {"resamples": 100},
        }
    )
)
WEEKLY = EvaluateConfig.model_validate_json(
    json.dumps({"prompts": {"test_size": 24}, "evaluation": {"sampler": {"steps_per_block": 4}}})
)
FIRST, SECOND = datetime(2026, 11, 24, 2, tzinfo=UTC), datetime(2026, 11, 25, 2, tzinfo=UTC)

Night = Callable[..., RetrainResult]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Runs `retrain` with a gate whose word is given; `meanwhile` happens while the gate thinks."""
    from tasks.gdsd.evaluate import gate
    from workflows.retrain import retrain

    decide = gate.decide

    def go(url: str, when: datetime, promoted: bool, meanwhile: Callable[[], object] = lambda: None) -> RetrainResult:
        def scripted(*arguments):
            meanwhile()
            return decide(*arguments).model_copy(update={"promoted": promoted, "reason": "it was said so"})

        with pytest.MonkeyPatch.context() as here:
            here.setattr(gate, "decide", scripted)
            return retrain(config=CONFIG, registry=url, kickoff_time=when)

    with quick_runs(tmp_path_factory.mktemp("data")):
        yield go


@pytest.fixture(scope="module")
def nights(night: Night, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RetrainResult, RetrainResult]:
    """A registry after two nights that the gate liked, and what they came to."""
    url = str(tmp_path_factory.mktemp("registry") / "policies")
    return url, night(url, FIRST, True), night(url, SECOND, True)


@pytest.fixture
def url(nights: tuple[str, RetrainResult, RetrainResult], tmp_path: Path) -> str:
    """A copy of that registry, to change."""
    return str(shutil.copytree(nights[0], tmp_path / "policies"))


def reached(report: object) -> object:
    return {key: value for key, value in without_times(report).items() if key not in ("round", "protocol")}


def test_the_first_night_fills_the_registry_and_the_second_starts_from_its_champion(
    nights: tuple[str, RetrainResult, RetrainResult],
) -> None:
    """If it fails, every night starts from nothing, or nobody can say where a champion comes from.

    Both nights have the same test problems, so what the second one's base reaches is what the first one's policy did.
    """
    url, first, second = nights
    registry = Registry(url)
    changes = registry.history()
    assert [(change.entry, change.previous) for change in changes] == [
        (first.night.champion, None),
        (second.night.champion, first.night.champion),
    ]
    assert all(change.why == "it was said so" and change.who.startswith("execution ") for change in changes)
    ours = registry.entry(second.night.champion)
    assert ours.parent == first.night.champion and ours.made == SECOND and "torch" in ours.versions
    record = json.loads((Path(second.run.folder.path) / "run.json").read_text())
    assert {key: ours.evidence[key] for key in ("decision", "base", "trained", "config")} == {
        key: record[key] for key in ("decision", "base", "trained", "config")
    }
    before, after = first.run.record, second.run.record
    assert before.trained.protocol.prompts_sha256 == after.base.protocol.prompts_sha256
    assert before.base.reward != before.trained.reward, "a round that changes nothing would show nothing here"
    assert after.base.round == 0 and reached(after.base.model_dump()) == reached(before.trained.model_dump())


def test_every_night_has_problems_and_draws_of_its_own(nights: tuple[str, RetrainResult, RetrainResult]) -> None:
    """If it fails, a policy is trained on the same problems every night until it knows them by heart."""
    first, second = (result.run.record.config for result in nights[1:])
    assert first.prompts.train_seed != second.prompts.train_seed and first.seed != second.seed
    assert first.prompts.seed == second.prompts.seed == CONFIG.prompts.seed


def test_seeds_follow_from_the_moment_whatever_its_time_zone() -> None:
    """If it fails, a night that is started again is not served from the cache, or two nights are alike."""
    there = FIRST.astimezone(timezone(timedelta(hours=9)))
    drawn = [draw_seeds(config=CONFIG, kickoff_time=when) for when in (FIRST, there, FIRST.replace(tzinfo=None))]
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[0] != draw_seeds(config=CONFIG, kickoff_time=FIRST + timedelta(seconds=1))
    other = draw_seeds(config=CONFIG.model_copy(update={"seed": 1}), kickoff_time=FIRST)
    assert other.seed != drawn[0].seed and other.prompts.train_seed != drawn[0].prompts.train_seed


def test_a_gate_that_says_no_leaves_the_champion(night: Night, url: str) -> None:
    """If it fails, a policy that is no better, or worse, is served."""
    registry = Registry(url)
    champion, entries = registry.champion(), registry.entries()
    result = night(url, SECOND + timedelta(days=1), False)
    assert not result.night.promoted and result.night.champion == champion and "is left as it was" in str(result)
    assert registry.champion() == champion and registry.entries() == entries and len(registry.history()) == 2


def test_an_empty_registry_stays_empty_until_the_gate_says_yes(night: Night, tmp_path: Path) -> None:
    """If it fails, the first policy becomes champion without having been better than anything."""
    url = str(tmp_path / "policies")
    result = night(url, FIRST, False)
    assert result.night.champion is None and "none yet" in str(result) and Registry(url).entries() == []


def test_a_rolled_back_champion_is_what_the_next_night_starts_from(
    night: Night, url: str, nights: tuple[str, RetrainResult, RetrainResult], capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, a bad policy comes back through the runs that start from it."""
    first = nights[1].night.champion
    assert command.main([url, "rollback", first[:10], "--reason", "answers got slow"]) == 0
    assert "answers got slow" in capsys.readouterr().out
    result = night(url, SECOND + timedelta(days=1), True)
    assert Registry(url).entry(result.night.champion).parent == first
    assert reached(result.run.record.base.model_dump()) == reached(nights[1].run.record.trained.model_dump())


def test_a_night_that_is_overtaken_is_refused_if_its_gate_says_yes(night: Night, url: str) -> None:
    """If it fails, a run compared with an old champion replaces a better one, or a night fails that changes nothing."""
    registry = Registry(url)
    first, second = (change.entry for change in registry.history())

    def overtake() -> None:
        registry.roll_back(first if registry.champion() == second else second, who="ann", why="meanwhile")

    with pytest.raises(StaleError, match="compared with"):
        night(url, SECOND + timedelta(days=1), True, overtake)
    assert registry.champion() == first and len(registry.history()) == 3
    result = night(url, SECOND + timedelta(days=2), False, overtake)
    assert registry.champion() == result.night.champion == second and not result.night.promoted


def test_a_night_killed_between_entry_and_log_leaves_the_champion_and_the_next_one_works(
    night: Night, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a machine that is taken away in the last second leaves a registry that somebody has to repair."""
    registry = Registry(url)
    champion, entries = registry.champion(), registry.entries()

    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            night(url, SECOND + timedelta(days=1), True)
    (left,) = set(registry.entries()) - set(entries)
    assert registry.champion() == champion and registry.entry(left).parent == champion
    assert f"never champion: {left[:12]}" in command.describe(registry)
    result = night(url, SECOND + timedelta(days=2), True)
    assert registry.champion() == result.night.champion and registry.entry(result.night.champion).parent == champion


def killed(*arguments: object) -> None:
    raise KeyboardInterrupt


def trained() -> None:
    pytest.fail("a night that had its entry already was trained again")


def repeated(night: Night, url: str, when: datetime) -> RetrainResult:
    """Runs a night again that has its entry, and makes sure that nothing else is promoted."""
    registry = Registry(url)
    before = registry.entries()
    result = night(url, when, True, trained)
    assert registry.entries() == before and len(before) == 3, "no second entry"
    assert sum(change.entry == result.entry for change in registry.history()) == 1, "nor a second promotion"
    assert [one.due for one in registry.nights.all()].count(result.night.due) == 1
    assert result.run is None
    return result


@pytest.mark.parametrize("crash", ["before the record", "before its copy", "behind it", "behind the night"])
def test_a_night_that_is_repeated_ends_with_its_entry(
    crash: str, night: Night, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a night that was killed at its end is trained once more from its own policy, or says "as it was"."""
    registry, third = Registry(url), SECOND + timedelta(days=1)
    copy, promote = Log.copy, Registry.promote

    def copied(self: Log) -> None:
        copy(self) if len(self.places()) == 2 else killed()

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        if crash == "before the record":
            patch.setattr(Log, "append", killed)
        elif crash == "before its copy":
            patch.setattr(Log, "copy", copied)
        elif crash == "behind it":
            patch.setattr(Registry, "promote", lambda *given, **named: killed(promote(*given, **named)))
        night(url, third, True)
    # The same moment, written otherwise.
    result = repeated(night, url, third.astimezone(timezone(timedelta(hours=9))) + timedelta(milliseconds=7))
    champion = registry.entry(registry.champion())
    assert champion.made == third and champion.origin.experiment == "nightly"
    assert result.entry == registry.champion() == result.night.champion
    assert result.night.promoted and result.night.due == third and result.night.gain == champion.origin.gain
    said = str(result)
    assert f"2026-11-26 02:00:00 UTC has made entry {result.entry} already" in said and "is this policy" in said
    assert f"gain      {champion.origin.gain.points()} points" in said and "promoted: it was said so" in said
    folder = registry.run_folder(result.entry)
    assert (Path(folder) / "report.html").is_file() and f"run       {folder}" in said
    assert all(place.is_copied for place in registry.log.places())
    # What has come after it stays.
    first = registry.history()[0].entry
    registry.roll_back(first, who="ann", why="answers got slow")
    again = repeated(night, url, third)
    assert registry.champion() == again.champion == first
    assert f"{first}, has replaced this policy, {result.entry}" in str(again)
    assert again.night == result.night == registry.nights.all()[-1], (
        "or a night of long ago would count as one of today"
    )


def test_a_night_that_was_overtaken_before_its_record_is_stale_at_once(
    night: Night, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, the hours of a night are spent again on what cannot be promoted."""
    registry, third = Registry(url), SECOND + timedelta(days=1)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Log, "append", killed)
        night(url, third, True)
    registry.roll_back(registry.history()[0].entry, who="ann", why="meanwhile")
    with pytest.raises(StaleError, match="Start a run with another kickoff time"):
        night(url, third, True, trained)


@pytest.mark.parametrize("other", ["another policy", "another policy, and this gate says no", "the same policy"])
def test_a_night_that_runs_twice_at_once_is_one_entry(
    other: str, night: Night, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, the slower one of two runs of a night fails as stale, publishes what was not promoted, or hides it.

    The other one has made the entry while the gate thinks, or, of the same policy, at the last moment.
    """
    registry, third = Registry(url), SECOND + timedelta(days=1)
    champion, add = registry.champion(), Registry.add

    def run_elsewhere() -> None:
        origin = Origin(experiment="nightly", gain=Estimate(mean=0.5, low=0.4, high=0.6), reason="better")
        policy, given = registry.fetch(champion, tmp_path / "policy"), {"origin": origin, "run": "elsewhere"}
        entry = registry.add(policy, parent=champion, made=third, versions={}, evidence={}, **given)
        registry.promote(entry, against=champion, who="the other one", why="better")

    def add_after_another(self: Registry, policy: Path, **given: object) -> str:
        entry = add(self, policy, **given | {"run": "elsewhere"})
        self.promote(entry, against=champion, who="the other one", why="better")
        return add(self, policy, **given)

    if other == "the same policy":
        monkeypatch.setattr(Registry, "add", add_after_another)
        result = night(url, third, True)
    else:
        result = night(url, third, other == "another policy", run_elsewhere)
    assert result.run is None and result.folder == "elsewhere" and result.night.who == "the other one"
    assert result.entry == registry.champion() and result.night.promoted
    assert len(registry.entries()) == len(registry.history()) == 3


@pytest.mark.parametrize("name", ["retrain", "evaluate_champion"])
@pytest.mark.parametrize("when", ["2026-11-24T02:00:00", "2026-11-24 11:00:00.5+09:00"])
def test_the_command_to_go_on_is_one_that_pyflyte_takes(
    name: str, when: str, tmp_path: Path, pyflyte_here: Pyflyte
) -> None:
    """If it fails, who follows a failed night's own advice meets another error, or starts another night."""
    began = pyflyte_here(
        *("run", "workflows/retrain.py", name, "--registry", "http://a b", "--kickoff_time", when, "--config", "{}")
    )
    assert began.code != 0 and "two writers at once" in began.words()
    for kept in (1, 2):
        commands = [json.loads(path.read_text())["go_on"] for path in tmp_path.glob("data/failed-*/failure.json")]
        assert len(commands) == kept and all(one.endswith(" --kickoff_time 2026-11-24T02:00:00") for one in commands)
        words = shlex.split(commands[0])
        assert words[:3] == ["cd", os.getcwd(), "&&"] and words.count("--kickoff_time") == 2, "it does not grow"
        again = pyflyte_here(*words[4:])
        assert again.code != 0 and "two writers at once" in again.words(), "it goes as far as the run before"


def test_it_is_known_how_each_night_ended_and_that_none_has_ended_lately(
    night: Night, url: str, nights: tuple[str, RetrainResult, RetrainResult], capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, a schedule that stopped is found when somebody wonders why the champion is so old."""
    night(url, SECOND + timedelta(days=1), False)
    kept = Registry(url).nights.all()
    assert [one.promoted for one in kept] == [True, True, False]
    assert [one.due for one in kept[:2]] == [FIRST, SECOND] and kept[2].champion == nights[2].night.champion
    found = nights[1].run.record.decision
    assert kept[0].outcome() == (
        f"promoted, {found.solved_difference.points()} points of solved test problems, "
        f"{found.reward_difference.signed()} reward; champion {nights[1].night.champion[:12]}"
    )
    assert command.main([url]) == 0 and f"night        {kept[2].outcome()}" in capsys.readouterr().out
    assert by_hand.main(["last", url]) == 0
    assert f"{kept[2].outcome()} ({kept[2].who})" in capsys.readouterr().out
    assert by_hand.main(["last", url, "--hours", "0"]) == 1
    assert f"no night of {url} has ended for 0 hours: the last one ended at " in capsys.readouterr().err
    late = kept[2].ended + timedelta(hours=26, seconds=1)
    with pytest.raises(RegistryError, match="has ended for 26 hours"):
        by_hand.last(Registry(url), 26, late)
    assert kept[2].outcome() in by_hand.last(Registry(url), 26, late - timedelta(seconds=2))
    assert by_hand.main(["last", f"{url}-other"]) == 1
    assert "and no earlier one is known" in capsys.readouterr().err


def test_a_mail_arrives_after_an_outage_and_its_loss_fails_no_night(
    url: str,
    nights: tuple[str, RetrainResult, RetrainResult],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If it fails, a mail server that is busy for a minute keeps a promotion from people, or makes it look failed."""
    monkeypatch.setattr(mail, "in_pod", lambda: True)
    monkeypatch.setattr(mail, "WAIT_S", 0)
    caplog.set_level("ERROR", "tasks.mail")
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    ending = {"result": nights[1].model_copy(update={"registry": url})}
    with MailServer() as server:
        monkeypatch.setenv("GDSD_NOTIFY", "ann@example.org, bob@example.org")
        monkeypatch.setenv("GDSD_MAIL_SERVER", server.url)
        server.busy = 2
        mail.end_night(**ending)
        (sent,) = server.mails
        assert sent["To"] == "ann@example.org, bob@example.org" and sent["From"] == "ann@example.org"
        # Without these two a mail is often taken for spam.
        assert parsedate_to_datetime(sent["Date"]) <= datetime.now(UTC)
        assert sent["Message-ID"].endswith("@example.org>")
        assert f"night of 2026-11-24 02:00: {Registry(url).nights.all()[0].outcome()}" in " ".join(
            str(sent["Subject"]).split()
        )
        server.unknown = {b"bob@"}
        mail.end_night(**ending)
        assert len(server.mails) == 2 and "refused bob@example.org; the others" in caplog.text
        server.mails.pop()
        server.busy = mail.ATTEMPTS
        mail.end_night(**ending)
        assert len(server.mails) == 1 and f"attempt {mail.ATTEMPTS} to mail it to ann@example.org" in caplog.text
        # A password goes over TLS, which this server does not have.
        monkeypatch.setenv("GDSD_MAIL_SERVER", server.url.replace("://", "://gdsd@"))
        monkeypatch.setenv("GDSD_MAIL_PASSWORD", "hunter2")
        mail.end_night(**ending)
        assert len(server.mails) == 1 and not [line for line in server.words if b"AUTH" in line or b"hunter2" in line]
        assert "STARTTLS" in caplog.text and "hunter2" not in caplog.text


def test_an_entry_is_a_policy_to_evaluate_and_the_week_keeps_its_score(
    night: Night, url: str, nights: tuple[str, RetrainResult, RetrainResult], capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, the champion's numbers are not those that it was promoted for, or nobody sees how they develop."""
    from workflows.gdsd import evaluate
    from workflows.retrain import evaluate_champion

    registry, second = Registry(url), nights[2]
    weekly = evaluate_champion(config=WEEKLY, registry=url, kickoff_time=SECOND)
    rewarded = evaluate(policy=FlyteDirectory(registry.policy(second.night.champion)), config=WEEKLY)
    (report,) = weekly.result.reports
    assert reached(report.model_dump()) == reached(second.run.record.trained.model_dump())
    assert reached(report.model_dump()) == reached(rewarded.reports[0].model_dump())
    assert weekly.champion == second.night.champion and Path(weekly.kept).is_file()
    (kept,) = registry.evaluations.all()
    assert kept.reports == [report.model_dump(mode="json")] and kept.entry == second.night.champion
    assert command.main([url]) == 0
    said = capsys.readouterr().out
    assert (
        f"champion  {second.night.champion}" in said and f"policy    {registry.policy(second.night.champion)}" in said
    )
    assert "evaluated" in said and "of 24 sudoku problems at length 16" in said


def test_a_week_without_a_champion_is_refused(night: Night, tmp_path: Path) -> None:
    """If it fails, an evaluation of nothing ends somewhere deep inside."""
    from workflows.retrain import evaluate_champion

    with pytest.raises(RegistryError, match="no champion to evaluate"):
        evaluate_champion(config=WEEKLY, registry=str(tmp_path / "policies"), kickoff_time=FIRST)


def test_the_command_fetches_and_says_what_is_wrong(
    nights: tuple[str, RetrainResult, RetrainResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, somebody who serves the champion, or mistypes its address, is left alone."""
    url, first, second = nights
    assert command.main([url, "fetch", str(tmp_path / "champion")]) == 0
    assert command.main([url, "fetch", first.night.champion[:8], str(tmp_path / "first")]) == 0
    assert second.night.champion in capsys.readouterr().out
    kept = Path(Registry(url).policy(second.night.champion))
    assert {path.name for path in (tmp_path / "champion").iterdir()} == set(os.listdir(kept))
    for arguments, words in (
        ([f"{url}s"], "there is no registry at"),
        ([url, "fetch", str(tmp_path / "champion")], "exists; name a folder that does not"),
        ([url, "rollback", "xyz", "--reason", "x"], "no entry begins with 'xyz'"),
        ([url, "rollback", second.night.champion, "--reason", "x"], "is the champion of"),
        (["http://example.org/x"], "two writers at once"),
    ):
        assert command.main(arguments) == 1
        assert words in capsys.readouterr().err
