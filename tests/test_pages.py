"""Links, commands, configurations, metrics and the page of fields: what README.md and docs/ point to is there."""

import importlib
import importlib.util
import json
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import pytest
import yaml
from flytekit import LaunchPlan
from flytekit.clis.sdk_in_container.pyflyte import main as pyflyte
from pydantic import ValidationError

from tasks import fields
from tasks.gdsd.config import loading
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.run import metrics
from tasks.gdsd.strict import Config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
FENCE = re.compile(r"^(`{3,})[^\n]*\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
COMMANDS = ("make", "pyflyte", "python")
YAML = re.compile(r"^```yaml *(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MODELS: Mapping[str, type[Config]] = {"train": TrainConfig, "evaluate": EvaluateConfig, "compare": CompareConfig}
FOREIGN = ("chart", "client", "kubernetes")  # of Flyte and Kubernetes themselves
# Their examples are run by tests of their own.
TRIED = tuple(f"docs/{page}.md" for page in ("extending", "domains/custom", "domains/service", "models"))


def anchors(page: Path) -> set[str]:
    """The names that the hub gives to the titles of a page."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> list[list[str]]:
    """The commands in a page's code, in words."""
    text = page.read_text()
    lines = [line for match in FENCE.finditer(text) for line in match[2].splitlines()]
    lines += re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    found = []
    for line in lines:
        line = re.sub(r"^(?:[A-Z_]+=\S* )*", "", line.strip())  # variables before the command
        if line.split(" ")[0] in COMMANDS:
            found.append(shlex.split(line, comments=True))
    return found


def fault(words: list[str]) -> str | None:
    """Says what a command names that is not there, or None."""
    missing = [
        word
        for word in words
        if re.match(r"(?:PATH/)?(?:configs|tests|workflows)(?:/|$)", word)
        and not (ROOT / word.removeprefix("PATH/")).exists()
    ]
    if missing:
        return f"there is no {missing[0]}"
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"there is no target {unknown[0]}" if unknown else None
    if words[0] == "python":
        module = words[words.index("-m") + 1]
        return None if importlib.util.find_spec(module) else f"there is no module {module}"
    if len(words) == 1 or words[1:] == ["run", "remote-launchplan"] or "..." in words:  # named, not typed
        return None
    try:
        return of_workflow(parsed(pyflyte, words[1:]))
    except click.UsageError as error:
        return error.format_message()


def parsed(command: click.Command, words: list[str], parent: click.Context | None = None) -> list[str]:
    """Reads a command's words as it would itself, down to a file of workflows; returns what it leaves unread."""
    context = command.make_context(command.name, list(words), parent=parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # click 9 has both in `args`
        rest = [*context.protected_args, *context.args]
    if not isinstance(command, click.Group) or command.name == "run" or not rest:
        return rest if command.name == "run" else []
    _, inner, rest = command.resolve_command(context, rest)
    assert inner is not None
    return parsed(inner, rest, context)


def of_workflow(words: list[str]) -> str | None:
    """Says what is wrong with a file, a workflow's name and its inputs, as `pyflyte run` is given them, or None."""
    if not words:
        return None
    if len(words) == 1:
        return "it names no workflow"
    file, name, *given = words
    module = importlib.import_module(file.removeprefix("PATH/").removesuffix(".py").replace("/", "."))
    found = getattr(module, name, None)
    if found is None:
        return f"there is no {name}"
    workflow = found.workflow if isinstance(found, LaunchPlan) else found
    inputs = workflow.python_interface.inputs
    options = list(zip(given[::2], given[1::2], strict=True))
    changed = [written for option, written in options if option == "--set"]
    values = {option: written for option, written in options if option != "--set"}
    if wrong := [word for word in values if word.removeprefix("--") not in inputs]:
        return f"{name} takes no {wrong[0]}"
    for option, written in values.items():
        model, config = inputs[option.removeprefix("--")], written.removeprefix("PATH/")
        if not (isinstance(model, type) and issubclass(model, Config)):
            continue
        if config.endswith(".yaml"):  # where it is none of ours, it is one that the page makes
            config = (ROOT / config).read_text() if config.startswith("configs/") else "{}"
        if (said := refused(model, config, changed)) is not None:
            return said
    return None


def refused(model: type[Config], written: str, changed: Sequence[str] = ()) -> str | None:
    """Says why a model refuses a configuration, with some fields changed, or None."""
    try:
        loading.given(model, json.dumps(yaml.safe_load(written)), changed)
    except (ConfigError, ValidationError) as error:
        return str(error)
    return None


@EACH_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    """If it fails, a reader clicks on a link to nothing."""
    for text, target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.is_relative_to(ROOT) and goal.exists(), target
        assert not anchor or anchor in anchors(goal), target
        if goal.suffix == ".py" and (name := re.fullmatch(r"`(\w+)`", text)):
            defined = rf"^(?:def {name[1]}\(|class {name[1]}\b|{name[1]} = )"
            assert re.search(defined, goal.read_text(), re.MULTILINE), f"{target} does not define {name[1]}"


@EACH_PAGE
def test_commands_name_what_is_there(page: Path) -> None:
    """If it fails, a reader types a command of the page, and something that it names does not exist."""
    assert not [(command, said) for command in commands(page) if (said := fault(command))]


@EACH_PAGE
def test_configurations_are_accepted(page: Path) -> None:
    """If it fails, a reader copies a configuration of the page, and it is refused."""
    for kind, written in YAML.findall(page.read_text()):
        if kind in MODELS:
            assert refused(MODELS[kind], written) is None
        elif kind in FOREIGN:
            assert isinstance(yaml.safe_load(written), dict)
        else:
            assert not kind and str(page.relative_to(ROOT)) in TRIED, f"of what is this?\n{written}"


def test_commands_are_found_and_wrong_ones_refused() -> None:
    """If it fails, the test of the commands looks at nothing."""
    found = commands(ROOT / "README.md")
    for start in (["make", "train"], ["pyflyte", "run"], ["python", "-m"]):
        assert [command for command in found if command[:2] == start], start
    for wrong in (
        "make trian",
        "python -m tasks.nothing",
        "python -m pytest tests/bench/test_nothing.py",
        "pyflyte run workflows/gdsd.py trian",
        "pyflyte run workflows/gdsd.py train --config configs/nothing.yaml",
        "pyflyte go",
        "pyflyte run --remot workflows/gdsd.py train",
        "pyflyte run workflows/gdsd.py train --policy FOLDER",
        """pyflyte run workflows/gdsd.py evaluate --policy FOLDER --config '{"promts": {}}'""",
        "pyflyte launchplan nightly_retrain v1",
        "pyflyte execution -p gdsd recover",
    ):
        assert fault(shlex.split(wrong)), wrong


def test_every_page_is_linked_from_the_readme() -> None:
    """If it fails, there is a page that nobody finds."""
    targets = {target.partition("#")[0] for _, target in LINK.findall((ROOT / "README.md").read_text())}
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} <= targets


def test_every_metric_is_explained() -> None:
    """If it fails, a reader of metrics.jsonl meets a name that docs/metrics.md does not have."""
    names = set(re.findall(r'"([a-z]+/[a-z_]+)"', Path(metrics.__file__).read_text()))
    assert len(names) > 10
    assert names <= set(re.findall(r"`([a-z]+/[a-z_]+)`", (ROOT / "docs/metrics.md").read_text()))


def test_the_page_of_fields_is_up_to_date() -> None:
    """If it fails, docs/fields.md says other fields than the models have: run `make fields`."""
    assert (ROOT / "docs/fields.md").read_text() == fields.page()


def test_every_field_is_described() -> None:
    """If it fails, a field has no `description` that says what it does."""
    rows = [re.split(r"(?<!\\)\|", line) for line in fields.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    assert not [row for row in rows if len(row) != 7 or not row[2].strip() or not row[4].strip() or not row[5].strip()]
