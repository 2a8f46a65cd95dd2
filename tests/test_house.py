"""The house: which room imports which, and how large a file, a function and a class may be."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("images", "tasks", "workflows")
# From the ground up: what lies in one place of the list imports only what lies in the places before it.
ROOMS = (
    ("errors", "seeds", "strict", "files", "tables", "transient"),
    ("modules",),
    ("sandbox",),
    ("domains",),
    ("config",),
    ("records",),
    ("denoiser",),
    ("objectives",),
    ("prompts",),
    ("rollout",),
    ("reward",),
    ("distill",),
    ("evaluate",),
    ("resident",),
    ("run",),
    ("report",),
    ("publish", "registry", "planning"),
    ("library",),
)
GROUND = "tasks.gdsd"
SHARED = "tasks.flyte"  # by the tasks above it


@cache
def sources() -> dict[str, Path]:
    """Every module of the product, by its name."""
    files = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def imports() -> dict[str, frozenset[str]]:
    """What each module imports of the product and of flytekit, wherever in the file."""
    return {name: frozenset(imported(path)) - {name} for name, path in sources().items()}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in sources() else str(node.module) for name in whole]
        else:
            continue
        yield from (name for name in names if name in sources() or name.split(".")[0] == "flytekit")


def room(module: str) -> str:
    """The room of a module of the ground floor: a folder, or a file that lies beside them."""
    return module.removeprefix(f"{GROUND}.").split(".")[0]


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Returns the places of a circle, or nothing."""
    done: set[str] = set()

    def walk(place: str, path: list[str]) -> list[str]:
        if place in path:
            return [*path[path.index(place) :], place]
        if place not in done:
            for following in sorted(arrows.get(place, ())):
                if found := walk(following, [*path, place]):
                    return found
            done.add(place)
        return []

    return next((found for place in sorted(arrows) if (found := walk(place, []))), [])


def test_floors_import_downwards() -> None:
    """If it fails, the algorithm needs Flyte, a task needs a workflow, or images need what they should be free of."""
    upwards = [
        (name, found)
        for name, all_found in imports().items()
        for found in all_found
        if (name.startswith(GROUND) and not found.startswith(GROUND))
        or (name.startswith(SHARED) and found.startswith("tasks.") and not found.startswith((GROUND, SHARED)))
        or (name.startswith("tasks") and found.startswith("workflows"))
        or (name.startswith("images") and found.split(".")[0] in ("tasks", "workflows"))
    ]
    assert not upwards


def test_rooms_import_what_comes_before_them() -> None:
    """If it fails, a stage knows of a later one, and neither can be read by itself."""
    place = {name: index for index, names in enumerate(ROOMS) for name in names}
    inside = {name: found for name, found in imports().items() if name.startswith(f"{GROUND}.")}
    assert {room(name) for name in inside} == set(place)
    later = [
        (name, other)
        for name, found in inside.items()
        for other in found
        if other.startswith(f"{GROUND}.") and room(other) != room(name)
        if place[room(other)] >= place[room(name)] > 0 or place[room(other)] > place[room(name)]
    ]
    assert not later


def test_there_is_no_circle() -> None:
    """If it fails, two files or two rooms cannot be understood, or imported, one after the other."""
    files = {name: {other for other in found if other in sources()} for name, found in imports().items()}
    assert not circle(files)
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, found in files.items():
        if name.startswith(f"{GROUND}."):
            rooms[room(name)] |= {room(other) for other in found} - {room(name)}
    assert not circle(rooms)


def test_circles_are_found() -> None:
    """If it fails, the test of circles looks at nothing."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}})


def test_nothing_is_too_long() -> None:
    """If it fails, something is longer than a reader keeps in mind; would two parts with names be better?"""
    long = []
    for name, path in sources().items():
        text = path.read_text()
        if (lines := text.count("\n")) > 400:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > (60 if isinstance(node, ast.FunctionDef) else 250):
                    long.append(f"{name}.{node.name}: {lines} lines")
    assert not long


def test_few_files_lie_flat() -> None:
    """If it fails, a file lies in no room; the first look at the ground floor no longer shows the stages."""
    assert len(list((ROOT / "tasks/gdsd").glob("*.py"))) <= 8


def test_no_two_classes_differ_by_an_underscore() -> None:
    """If it fails, two things have one name."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sources().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name.strip("_")].add(node.name)
    assert not [names for names in found.values() if len(names) > 1]
