"""Links, commands and the page of fields: what README.md and docs/ point to is there."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from tasks import fields

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
FENCE = re.compile(r"^(`{3,})[^\n]*\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
COMMANDS = ("make", "pyflyte", "python")


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
    if words[1:2] == ["run"] and words[2:] != ["remote-launchplan"]:
        place = next((index for index, word in enumerate(words) if word.endswith(".py")), None)
        if place is None or place + 1 == len(words):
            return "it names no workflow"
        source = (ROOT / words[place].removeprefix("PATH/")).read_text()
        name = re.escape(words[place + 1])
        return None if re.search(rf"^(?:def {name}\(|{name} = )", source, re.MULTILINE) else f"there is no {name}"
    return None if len(words) == 1 or words[1] in ("run", "register", "launchplan") else f"pyflyte has no {words[1]}"


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
    ):
        assert fault(wrong.split()), wrong


def test_every_page_is_linked_from_the_readme() -> None:
    """If it fails, there is a page that nobody finds."""
    targets = {target.partition("#")[0] for _, target in LINK.findall((ROOT / "README.md").read_text())}
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} <= targets


def test_the_page_of_fields_is_up_to_date() -> None:
    """If it fails, docs/fields.md says other fields than the models have: run `make fields`."""
    assert (ROOT / "docs/fields.md").read_text() == fields.page()


def test_every_field_is_described() -> None:
    """If it fails, a field has no `description` that says what it does."""
    rows = [re.split(r"(?<!\\)\|", line) for line in fields.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    assert not [row for row in rows if len(row) != 7 or not row[2].strip() or not row[4].strip() or not row[5].strip()]
