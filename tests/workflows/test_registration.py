"""Registering the schedule, by the real command: what is said, and what is refused by its variable and file."""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import nights
from tasks.gdsd.errors import ConfigError
from tasks.mail import Post, read_post
from tasks.schedule import read
from tests.gdsd.domains.test_custom_domain import block
from tests.workflows.conftest import PYFLYTE, ROOT, Outcome, environment

URL = "s3://ours/registry"
REGISTER = ("register", "--dry-run", "--copy", "none", "--version", "v1", "-p", "p", "-d", "d", "workflows")
START = ("run", "--remote", "workflows/retrain.py", "nightly_retrain", "--kickoff_time", "now")


def run(home: Path, *words: str, **variables: str) -> Outcome:
    done = subprocess.run(
        [PYFLYTE, *words],
        cwd=ROOT,
        env=environment(home) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Configurations, some of which no pod could use."""
    folder = tmp_path_factory.mktemp("configs")
    here = folder / "problems.jsonl"
    here.write_text('{"puzzle": "1"}\n')
    sum_of_it = "0" * 64
    written = {
        "broken": "rounds: 0\n",
        "no yaml": "rounds: [\n",
        "local": f"prompts: {{train_data: {{path: {here}}}}}\n",
        "local url": f"prompts: {{train_data: {{path: 'file://{here}', sha256: '{sum_of_it}'}}}}\n",
        "local, pinned": f"prompts: {{train_data: {{path: {here}, sha256: '{sum_of_it}'}}}}\n",
        "relative": f"prompts: {{test_data: {{path: problems.jsonl, sha256: '{sum_of_it}'}}}}\n",
        "guard": f"judge: {{guards: {{other: {{test_data: {{path: {here}}}}}}}}}\n",
        "local alias": f"prompts: {{train_data: {{path: 'local://{here}', sha256: '{sum_of_it}'}}}}\n",
        "memory": f"prompts: {{train_data: {{path: 'memory://problems.jsonl', sha256: '{sum_of_it}'}}}}\n",
        "unknown": f"prompts: {{train_data: {{path: 's4://ours/problems.jsonl', sha256: '{sum_of_it}'}}}}\n",
        "no bucket": f"prompts: {{train_data: {{path: 'simplecache::s3:///problems.jsonl', sha256: '{sum_of_it}'}}}}\n",
        "no sum": "prompts: {train_data: {path: 'http://127.0.0.1:9/problems.jsonl'}}\n",
        "events here": "publish: {trackers: [{name: tensorboard, folder: events}]}\n",
        "database here": "publish: {trackers: [{name: mlflow, uri: 'sqlite:////data/runs.db'}]}\n",
        "two mistakes": "seed: a\nrounds: 0\n",
        "events": "publish: {trackers: [{name: tensorboard, folder: 's3://ours/events'}, {name: wandb, project: p}]}\n",
        "server": "publish: {trackers: [{name: mlflow, uri: 'https://mlflow.example.org'}]}\n",
        "model here": f"policy: {{model: {{path: models/llada, sha256: '{sum_of_it}'}}}}\n",
        "password": f"prompts: {{train_data: {{path: 'https://ann:secret@ours/p.jsonl', sha256: '{sum_of_it}'}}}}\n",
        "model": f"policy: {{model: {{path: /models/llada, sha256: '{sum_of_it}'}}}}\n",
        "chain": f"prompts: {{train_data: {{path: 'simplecache::s3://ours/p.jsonl', sha256: '{sum_of_it}'}}}}\n",
        "volume": f"prompts: {{train_data: {{path: /models/problems.jsonl, sha256: '{sum_of_it}'}}}}\n",
        "reward": "prompts: {domain: {name: custom, path: 'own_reward:Sorting'}}\n",
        "store": f"name: ours\nprompts: {{train_data: {{path: 's3://ours/problems.jsonl', sha256: '{sum_of_it}'}}}}\n",
    }
    (folder / "own_reward.py").write_text(block("python"))
    for name, text in written.items():
        (folder / f"{name}.yaml").write_text(text)
    return {name: str(folder / f"{name}.yaml") for name in written} | {"nowhere": str(folder / "nowhere.yaml")}


def test_without_a_registry_there_is_nothing_to_start(tmp_path: Path) -> None:
    """If it fails, a shell without the variables starts a night on somebody's registry, or on none."""
    registered, started = run(tmp_path, *REGISTER), run(tmp_path, *START)
    assert registered.code == 0 and "Launch Plan: nightly_retrain" not in registered.text
    assert "GDSD_REGISTRY is not set, so there is no nightly_retrain" in registered.words()
    assert started.code != 0 and "GDSD_REGISTRY is not set, so there is no nightly_retrain" in started.words()
    assert "Traceback" not in started.text and len(started.text.splitlines()) < 8


def test_a_registration_says_what_will_run(files: dict[str, str], tmp_path: Path) -> None:
    """If it fails, a mistake in a variable shows in the first night."""
    said = run(tmp_path, *REGISTER, GDSD_REGISTRY=URL, GDSD_RETRAIN_CONFIG=files["store"], GDSD_CPU_IMAGE="ours:cpu-1")
    assert said.code == 0, said.text
    assert "Launch Plan: nightly_retrain" in said.text and "Launch Plan: weekly_evaluation" in said.text
    for row in (
        f"registry {URL}",
        f"experiment ours, of {files['store']}",
        "images ours:cpu-1, gdsd:gpu",
        "mails to nobody, since GDSD_NOTIFY is not set",
        "files s3://ours/problems.jsonl (sha256 000000000000)",
        "evaluation, of the default, since GDSD_WEEKLY_CONFIG is not set",
    ):
        assert row in said.words(), row
    for registry in (URL, "registry"):
        quiet = run(tmp_path, "run", "workflows/retrain.py", "retrain", "--help", GDSD_REGISTRY=registry)
        assert quiet.code == 0 and "GDSD_REGISTRY" not in quiet.text and URL not in quiet.text, (
            "this registers no launch plan"
        )


def test_a_refusal_is_a_sentence_on_the_screen(files: dict[str, str], tmp_path: Path) -> None:
    """If it fails, who registers reads up to 161 lines of traceback."""
    for words, variables, start in (
        (REGISTER, {"GDSD_REGISTRY": "registry"}, "ConfigError: GDSD_REGISTRY 'registry' is no address"),
        (START, {"GDSD_REGISTRY": URL, "GDSD_NOTIFY": "ann"}, "ConfigError: GDSD_NOTIFY has 'ann'"),
        (
            REGISTER,
            {"GDSD_REGISTRY": URL, "GDSD_RETRAIN_CONFIG": files["broken"]},
            f"ConfigError: GDSD_RETRAIN_CONFIG={files['broken']}: TrainConfig refused: rounds: got 0;",
        ),
        (
            ("run", "--remote", "workflows/gdsd.py", "train", "--config", files["reward"]),
            {},
            f"ConfigError: prompts.domain: 'own_reward' lies in {Path(files['reward']).parent}, and pods get nothing",
        ),
    ):
        outcome = run(tmp_path, *words, **variables)
        shown = "".join(outcome.words().split())  # the frame breaks long names of files
        assert outcome.code != 0 and "".join(start.split()) in shown, outcome.text
        assert "Traceback" not in outcome.text and len(outcome.text.splitlines()) < 14


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GDSD_REGISTRY": "registry"}, "GDSD_REGISTRY 'registry' is no address in an object store"),
        ({"GDSD_REGISTRY": "/data/registry"}, "GDSD_REGISTRY '/data/registry' is no address"),
        ({"GDSD_REGISTRY": ""}, "GDSD_REGISTRY is empty"),
        ({"GDSD_REGISTRY": "ftp://host/registry"}, "GDSD_REGISTRY 'ftp://host/registry' is no address"),
        ({"GDSD_REGISTRY": "memory://registry"}, "GDSD_REGISTRY 'memory://registry' is no address"),
        ({"GDSD_REGISTRY": "file:///registry"}, "GDSD_REGISTRY 'file:///registry' is no address"),
        ({"GDSD_REGISTRY": "s3:///registry"}, "GDSD_REGISTRY 's3:///registry' is no address"),
        *(
            ({"GDSD_REGISTRY": url}, f"GDSD_REGISTRY {url!r} is no address in an object store: behind")
            for url in (
                f"{URL} ",
                f"{URL}\n",
                f"{URL}?versionId=1",
                f"{URL}#1",
                "s3://$BUCKET/registry",
                "s3://{bucket}/registry",
                "s3://[ours/registry",
                "s3://ours/../registry",
                "s3://ours//registry",
            )
        ),
        ({"GDSD_REGISTRY": "s3://key:secret@ours/r"}, "GDSD_REGISTRY 's3://...@ours/r' is no address"),
        ({"GDSD_NOTIFY": "ann"}, "GDSD_NOTIFY has 'ann', which is no mail address"),
        ({"GDSD_NOTIFY": "ann@example.org;bob@example.org"}, "GDSD_NOTIFY has 'ann@example.org;bob@example.org'"),
        ({"GDSD_NOTIFY": "ann@example.org,,bob@example.org"}, "GDSD_NOTIFY has ''"),
        ({"GDSD_NOTIFY": "Ann <ann@example.org>"}, "GDSD_NOTIFY has 'Ann <ann@example.org>'"),
        ({"GDSD_NOTIFY": "ann@"}, "GDSD_NOTIFY has 'ann@'"),
        ({"GDSD_NOTIFY": "ann@example"}, "GDSD_NOTIFY has 'ann@example'"),
        ({"GDSD_NOTIFY": "ann@example..org"}, "GDSD_NOTIFY has 'ann@example..org'"),
        ({"GDSD_NOTIFY": "ann@-example.org"}, "GDSD_NOTIFY has 'ann@-example.org'"),
        ({"GDSD_NOTIFY": "ann@exämple.org"}, "GDSD_NOTIFY has 'ann@exämple.org'"),
        ({"GDSD_NOTIFY": "ann(night)@example.org"}, "GDSD_NOTIFY has 'ann(night)@example.org'"),
        ({"GDSD_NOTIFY": "ann@example.org\nBcc: eve@example.org"}, "GDSD_NOTIFY has 'ann@example.org\\nBcc: "),
        ({"GDSD_NOTIFY": ""}, "GDSD_NOTIFY has ''"),
        ({"GDSD_MAIL_SERVER": "smtps://u:secret@h"}, "password pods find in GDSD_MAIL_PASSWORD"),
        ({"GDSD_MAIL_PASSWORD": "sécret"}, "GDSD_MAIL_PASSWORD has a character that is not ASCII"),
        *(
            ({"GDSD_MAIL_SERVER": server}, "GDSD_MAIL_SERVER names no mail server")
            for server in (
                "",
                "mail.example.org",
                "http://h",
                "smtp://h:port",
                "smtp://h:0",
                "smtp://h:99999",
                "smtp://h:25/inbox",
                "smtp://h:25?tls",
                "smtp://[h:25",
                "smtp://re lay:25",
                "smtp://relay:25\n",
                "smtp://relay..example.org:25",  # an error of sockets that is no OSError
                f"smtp://{'h' * 64}:25",
                "smtp://ann%0aBcc%3a@h",
            )
        ),
        ({"GDSD_NOTIFY": None, "GDSD_MAIL_SERVER": "smtp://relay:25"}, "GDSD_NOTIFY names nobody to write to"),
        ({"GDSD_RETRAIN_CONFIG": ""}, "GDSD_RETRAIN_CONFIG=: it names no file"),
        ({"GDSD_RETRAIN_CONFIG": "nowhere"}, "GDSD_RETRAIN_CONFIG={}: no such file: '{}'"),
        ({"GDSD_WEEKLY_CONFIG": "/"}, "GDSD_WEEKLY_CONFIG=/: '/' is a folder; name a file in it"),
        ({"GDSD_RETRAIN_CONFIG": "two mistakes"}, "units; rounds: got 0; "),
        ({"GDSD_RETRAIN_CONFIG": "broken"}, "GDSD_RETRAIN_CONFIG={}: TrainConfig refused: rounds: got 0;"),
        (
            {"GDSD_WEEKLY_CONFIG": "broken"},
            "GDSD_WEEKLY_CONFIG={}: this is a configuration of train and retrain, since it has rounds;",
        ),
        ({"GDSD_RETRAIN_CONFIG": "no yaml"}, "GDSD_RETRAIN_CONFIG={}: {}, line 2: "),
        ({"GDSD_RETRAIN_CONFIG": "local"}, "GDSD_RETRAIN_CONFIG={}: prompts.train_data.path '"),
        ({"GDSD_RETRAIN_CONFIG": "local url"}, "is a file of this machine, which pods do not have"),
        ({"GDSD_RETRAIN_CONFIG": "local, pinned"}, "is a file of this machine, which pods do not have"),
        (
            {"GDSD_WEEKLY_CONFIG": "relative"},
            "problems.jsonl' is a file of this machine, which pods do not have",
        ),
        ({"GDSD_RETRAIN_CONFIG": "local alias"}, "is a file of this machine, which pods do not have"),
        (
            {"GDSD_RETRAIN_CONFIG": "memory"},
            "prompts.train_data.path 'memory://problems.jsonl' is no address that",
        ),
        ({"GDSD_RETRAIN_CONFIG": "unknown"}, "prompts.train_data.path 's4://ours/problems.jsonl' is no address that"),
        ({"GDSD_RETRAIN_CONFIG": "no bucket"}, "path 'simplecache::s3:///problems.jsonl' is no address that pods"),
        ({"GDSD_RETRAIN_CONFIG": "no sum"}, "GDSD_RETRAIN_CONFIG={}: prompt file 'http://127.0.0.1:9/problems.jsonl' "),
        (
            {"GDSD_RETRAIN_CONFIG": "events here"},
            "events', which is lost with the pod",
        ),
        ({"GDSD_RETRAIN_CONFIG": "database here"}, "mlflow would write to 'sqlite:////data/runs.db', which is lost"),
        ({"GDSD_RETRAIN_CONFIG": "reward"}, "GDSD_RETRAIN_CONFIG={}: prompts.domain: 'own_reward' lies in "),
        (
            {"GDSD_RETRAIN_CONFIG": "model here"},
            "models/llada' is a folder beside the configuration, which pods do not",
        ),
        ({"GDSD_RETRAIN_CONFIG": "password"}, "prompts.train_data.path: this has a password, which would be in every"),
        ({"GDSD_RETRAIN_CONFIG": "guard"}, "GDSD_RETRAIN_CONFIG={}: judge.guards.other.test_data.path '"),
    ],
)
def test_what_would_fail_at_night_is_refused(
    variables: Mapping[str, str | None], words: str, files: dict[str, str]
) -> None:
    """If it fails, a night ends in a pod's own folder, without its problems, or unheard of."""
    settings = {"GDSD_REGISTRY": URL, "GDSD_NOTIFY": "ann@example.org"} | variables
    given = {name: files.get(value, value) for name, value in settings.items() if value is not None}
    file = next((files[value] for value in variables.values() if value in files), "")
    with pytest.raises(ConfigError) as refused:
        read(given)
    assert words.replace("{}", file) in str(refused.value)
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("start", "-p", "p", "-d", "d", "-c", "nowhere.yaml"), 1, "the client's configuration nowhere.yaml cannot be"),
        (("last", "registry", "--hours", "nan"), 2, "nan: hours are from 0 to"),
        (("last", "registry", "--hours", "-1"), 2, "-1: hours are from 0 to"),
    ],
)
def test_what_a_hand_mistypes_is_said_in_words(
    arguments: tuple[str, ...], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, who starts a night, or asks for the last one, reads a traceback."""
    try:
        found = nights.main(arguments)
    except SystemExit as refused:
        found = refused.code
    assert found == status and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("latin.yaml", b"admin: {endpoint: \xe4}", "cannot be read (UnicodeDecodeError"),
        ("cut.cfg", b"platform\n", "cannot be read (MissingSectionHeaderError"),
        ("open.yaml", b"admin: [a", "does not say where Flyte is; write admin.endpoint into it"),
        ("list.yaml", b"- admin", "does not say where Flyte is"),
        ("empty.yaml", b"", "does not say where Flyte is"),
        ("number.yaml", b"admin: {endpoint: 5}", "does not say where Flyte is"),
        ("sealed.yaml", b"admin: {endpoint: 'h:1', caCertFilePath: /nowhere}", "Flyte at h:1 did not start nightly"),
    ],
)
def test_a_damaged_configuration_of_the_client_is_refused(
    name: str, content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, a night is started in a cluster that nobody has named, or the answer is a traceback."""
    file = tmp_path / name
    file.write_bytes(content)
    assert nights.main(["start", "-p", "p", "-d", "d", "-c", str(file)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert words in said and (str(file) in said or "/nowhere" in said)


def test_what_pods_can_use_is_taken(files: dict[str, str]) -> None:
    """If it fails, a schedule that would run is refused."""
    for registry in (
        URL,
        f"{URL}/",
        "gs://our_s/a.b/v=1",
        "gs://ours",
        "abfs://ours@account.dfs.core.windows.net/registry",
    ):
        for name in ("store", "volume", "chain", "events", "server", "model"):
            plans = read({"GDSD_REGISTRY": registry, "GDSD_RETRAIN_CONFIG": files[name]})
            assert plans is not None and [plan.registry for plan in plans] == [registry, registry]
            on_volume = "/models/problems.jsonl (sha256 000000000000, on a volume of the pods)"
            assert (on_volume in plans[0].describe(datetime.now(UTC))) is (name == "volume")
    for server in (
        "smtp://relay",
        "smtp://mail_relay.mail.svc.cluster.local.:25/",
        "smtp://[::1]:25",
        "smtps://a@b.c@h",
    ):
        post = {"GDSD_NOTIFY": "ann@example.org, o'neil+night@mail.example.org", "GDSD_MAIL_SERVER": server}
        assert read_post(post) == Post(["ann@example.org", "o'neil+night@mail.example.org"], server)
