"""What the Dockerfile builds is what the pipeline registers and what images/lock/ names."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from images import CPU
from tests.images import build, lock
from tests.images.build import ROOT

REGISTERED = "/root"  # where `pyflyte register` has sources unpacked, unless told otherwise
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, with their instructions, without comments."""
    text = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.M)[1:]
    return {name: f"FROM {base}\n{body}" for base, name, body in zip(*[iter(parts)] * 3, strict=True)}


def instructions(name: str) -> str:
    """The instructions of a stage and of those that it starts from."""
    found = stages()
    base = found[name].split()[1]
    return (instructions(base) if base in found else "") + found[name]


def test_each_role_has_a_target() -> None:
    """If it fails, a role's image cannot be built."""
    assert build.TARGETS.keys() <= stages().keys()


def test_the_base_is_one_image_for_ever() -> None:
    """If it fails, two builds of one commit differ by what its base's tag meant that day."""
    assert re.search(r"^ARG BASE=[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.M)
    assert {stage.split()[1] for stage in stages().values()} - stages().keys() == {"${BASE}"}


def test_each_lock_is_of_one_stage() -> None:
    """If it fails, an extra has a lock that no build finds, or a change of one lock makes the others' stages anew."""
    found = re.findall(r"images/lock/([\w-]+)\.txt", "".join(stages().values()))
    assert sorted(found) == sorted(file.stem for file in lock.FOLDER.glob("*.txt"))


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_unprivileged_and_holds_packages_only(target: str) -> None:
    """If it fails, pods run as root, or an image holds code that is older than what is registered."""
    body = instructions(target)
    assert re.findall(r"^USER (\S+)$", body, re.M) == ["1000:1000"]
    assert body.rstrip().endswith("USER 1000:1000")
    assert "useradd --create-home --uid 1000 " in body
    # `pyflyte register` has the sources unpacked into /root, `pyflyte run` into the working folder.
    assert "chown flyte:flyte /root\n" in body and re.findall(r"^WORKDIR (\S+)$", body, re.M)[-1] == REGISTERED
    # Torch first and by itself: what comes after it may change, and nodes keep the layer.
    assert re.findall(r"^COPY (.*)$", body, re.M) == [
        f"--from={target}-torch /opt/venv /opt/venv",
        "--from=packages /opt/venv /opt/venv",
        f"--from={target}-materials /build/list.json /opt/materials.cdx.json",
    ]
    assert re.findall(r"^COPY (.*)$", instructions(f"{target}-torch"), re.M) == [f"images/lock/torch-{target}.txt ./"]


def test_what_becomes_another_user_and_the_packages_of_the_base_are_removed(tmp_path: Path) -> None:
    """If it fails, code answers have in reach a file that runs as root, pip, or packages that no list names."""
    (script,) = re.findall(r"^RUN (find / .*?) && useradd", stages()["run"], re.M | re.S)
    official, debian = "usr/local/lib/python3.11", "usr/lib/python3"
    gone = [
        f"{official}/site-packages/pip/main.py",
        f"{official}/site-packages/pip-24.0.dist-info/METADATA",
        f"{official}/ensurepip/_bundled/pip-24.0-py3-none-any.whl",
        f"{official}/site-packages/setuptools/__init__.py",
        f"{official}/site-packages/wheel-0.45.1.dist-info/METADATA",
        f"{official}/site-packages/README.txt",
        "usr/local/bin/pip",
        "usr/local/bin/wheel",
        "usr/local/bin/pip3.11",
        f"{debian}/dist-packages/pip/main.py",
        "usr/share/python-wheels/pip-23.0.1-py3-none-any.whl",
    ]
    kept = [
        f"{official}/pipes.py",
        f"{debian}/dist-packages/pipeline/pip.py",
        "usr/bin/pipe",
        "usr/bin/su",
        "bin/wall",
    ]
    for name in gone + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(0o755)
    (tmp_path / "usr/bin/su").chmod(0o4755)
    (tmp_path / "bin/wall").chmod(0o2755)
    subprocess.run(["sh", "-c", script.replace("\\\n", "").replace("find / ", f"find {tmp_path} ")], check=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)) for path in files} == set(kept)
    assert {oct(path.stat().st_mode & 0o7777) for path in files} == {"0o755"}


def test_packages_are_wheels_with_hashes_and_settings_of_pip_are_a_secret() -> None:
    """If it fails, an image takes what an index hands out, or holds the address or password of an index."""
    assert {"PIP_ONLY_BINARY=:all:", "PIP_REQUIRE_HASHES=1", "PIP_NO_DEPS=1"} <= set(instructions("build").split())
    for name, body in stages().items():
        installs = re.findall(r"pip install (?:.*\\\n)*?.*-r (\S+)\.txt", body)
        assert (
            len(installs) == body.count("pip install") == body.count("--mount=type=secret,id=pip,target=/etc/pip.conf")
        )
        assert len(installs) == body.count("--mount=type=cache,target=/root/.cache/pip"), name
    assert not any("PIP_" in instructions(target) for target in build.TARGETS)


def test_only_the_image_of_gpus_has_a_compiler() -> None:
    """If it fails, code answers have a compiler in reach, or `compile: true` fails in pods."""
    assert " g++ " in instructions("gpu") and "g++" not in instructions("cpu")
    assert "bubblewrap" in instructions("cpu")


def test_the_build_arguments_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, make images BASE=... is ignored, and the public base is asked for."""
    ran: list[str] = []
    monkeypatch.setattr(build, "find_engine", lambda: "buildah")
    real = subprocess.run

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if command[0] != "buildah":
            return real(command, **options)
        ran.extend(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    given = [word for name in build.ARGUMENTS for word in (f"--{name.lower().replace('_', '-')}", "there")]
    build.main(["cpu", *given, "--options=--pull --quiet"])
    assert [word for word in ran if word.startswith("--build-arg=")] == [
        f"--build-arg={name}=there" for name in build.ARGUMENTS
    ]
    assert set(build.ARGUMENTS) == set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.M))
    labels = re.findall(r"org\.opencontainers\.image\.(\w+)=(\S+)", DOCKERFILE)
    assert labels == [("source", "$SOURCE"), ("revision", "$REVISION"), ("licenses", "LicenseRef-of-each-package")] * 2
    assert {f"--tag={CPU.image}", "--target=cpu", "--pull", "--quiet"} <= set(ran)


@pytest.mark.parametrize(
    ("remote", "label"),
    [
        ("https://me:token@code.example:8443/org/name.git?key=1", "https://code.example:8443/org/name.git"),
        ("git@code.example:org/name.git", "https://code.example/org/name.git"),
        ("ssh://git@code.example:22/org/name", "https://code.example/org/name"),
        ("/home/me/secret", ""),
        ("file:///home/me/secret", ""),
        ("", ""),
    ],
)
def test_an_image_says_where_its_sources_are_and_no_secret(remote: str, label: str, tmp_path: Path) -> None:
    """If it fails, a label tells everybody a token or a path of whoever built, or nobody which commit it was."""
    assert build.sources(tmp_path) == {"SOURCE": "", "REVISION": ""}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@code.example"]
    for words in [
        "init",
        "commit --quiet --allow-empty --message first",
        *([f"remote add origin {remote}"] * bool(remote)),
    ]:
        subprocess.run([*git, *words.split()], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert build.sources(tmp_path) == {"SOURCE": label, "REVISION": commit}
    (tmp_path / "new").touch()
    subprocess.run([*git, "add", "new"], check=True)
    assert build.sources(tmp_path)["REVISION"] == f"{commit}-dirty"
    (tmp_path / "unpacked").mkdir()
    assert build.sources(tmp_path / "unpacked") == {"SOURCE": "", "REVISION": ""}, "another project's"


def test_the_settings_of_pip_reach_a_build() -> None:
    """If it fails, a build behind a company's index asks the public one."""
    listing = (
        ":env:.cert='/certificates'\n:env:.timeout='9'\n"
        "global.extra-index-url='https://a.example/simple https://b.example/simple?b=c'\nglobal.timeout='3'\n"
    )
    assert build.pip_settings(listing) == {
        "cert": "/certificates",
        "timeout": "9",
        "extra-index-url": "https://a.example/simple https://b.example/simple?b=c",
    }


def test_without_an_engine_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, make images ends in a traceback where nothing can build images."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"docker is not installed, and buildah is not installed either; install one"):
        build.find_engine()
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(SystemExit, match="docker is installed but has no daemon that answers"):
        build.find_engine()


# What test_built.py asks of an image


def pinned(file: str = "constraints.txt") -> dict[str, str]:
    """The versions that a file pins, by name."""
    lines = (ROOT / file).read_text().splitlines()
    return {key(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def faults(found: Mapping[str, object], cuda: bool) -> list[str]:
    """What is wrong with an image, of which test_built.py found this."""
    kind = "gpu" if cuda else "cpu"
    packages, listed = ({key(name): has for name, has in dict(found[of]).items()} for of in ("packages", "listed"))
    locks = [lock.FOLDER / f"{name}.txt" for name in (f"torch-{kind}", "packages", "tracking", "quantization")]
    locked = {name: version for file in locks for name, (version, _) in lock.read_lock(file).items()}
    wrong = [
        f"{name} {has} instead of {locked[name]}" for name, has in packages.items() if has != locked.get(name, has)
    ]
    loose = packages.keys() - locked.keys()
    problems = {
        "runs as root": found["user"] == 0,
        "has another build of torch": bool(found["cuda"]) is not cuda,
        f"has other versions than images/lock: {', '.join(wrong)}": wrong,
        f"has packages that images/lock does not name: {', '.join(loose)}": loose,
        f"has compilers: {found['compilers']}": found["compilers"] and not cuda,
        f"holds settings of pip: {found['settings']}": found["settings"],
        f"has pip: {found['pip']}": found["pip"],
        f"has packages beside /opt/venv: {found['beside']}": found["beside"],
        f"has setuid files: {found['setuid']}": found["setuid"],
        "lists other packages than it holds": packages != listed or not found["debian"],
    }
    return [problem for problem, there in problems.items() if there]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": 0}, "runs as root"),
        ({"cuda": "13.0"}, "another build of torch"),
        ({"packages": {"torch": "1.0"}, "listed": {"torch": "1.0"}}, "torch 1.0 instead of"),
        ({"packages": {"sneaky": "1"}, "listed": {"sneaky": "1"}}, "does not name: sneaky"),
        ({"compilers": ["gcc"]}, "compilers"),
        ({"settings": ["/etc/pip.conf"]}, "settings of pip"),
        ({"pip": ["/usr/bin/python3"]}, "has pip"),
        ({"beside": ["setuptools"]}, "beside /opt/venv: ['setuptools']"),
        ({"setuid": ["/usr/bin/su"]}, "setuid files: ['/usr/bin/su']"),
        ({"listed": {}}, "lists other packages"),
        ({"debian": []}, "lists other packages"),
    ],
)
def test_an_image_that_is_not_what_it_should_be_is_refused(change: dict[str, object], message: str) -> None:
    """If it fails, an image with other versions, a compiler or root is pushed as if it had been checked."""
    packages = {"torch": f"{pinned()['torch']}+cpu", "PyYAML": pinned()["pyyaml"]}
    lists = {"packages": packages, "listed": packages, "debian": ["bash"]}
    good = {"user": 1000, "cuda": None, "compilers": [], "settings": [], "pip": [], "beside": [], "setuid": []} | lists
    assert faults(good, cuda=False) == []
    (fault,) = faults(good | change, cuda=False)
    assert message in fault
