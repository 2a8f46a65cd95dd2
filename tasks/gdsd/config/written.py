"""Configurations as people write them: YAML or JSON comes in, and JSON with one reading goes out.

Of YAML's rules these are the ones that all programs share: `1e-4` is a number, dates and `1:30` are texts, and every
key is a text. `yes`, `010` and `None`, on which programs or readers differ, are refused, and so is `${NAME}`.
"""

import difflib
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import yaml
from pydantic import JsonValue
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.reader import ReaderError

from tasks.gdsd.errors import ConfigError, RepeatedKeyError
from tasks.gdsd.strict import once

PIN = "; if only the cluster can read it, give its sha256 beside it"  # the remedy for what is pinned at loading
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
TAG = "tag:yaml.org,2002:"
MERGE, TEXT = f"{TAG}merge", f"{TAG}str"
KINDS = [f"{TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")]
# What is taken as it is: options of a user's own domain, and what a policy or a judge is asked.
AS_IT_IS = frozenset({"options", "prompt", "template"})
UNFILLED = re.compile(r"\$\{[^}]*\}|\{\{.*?\}\}|^\$[A-Z_]\w*")  # of a shell, a template
REMEDIES = {  # what YAML's parser says -> what to do
    "mapping values are not allowed here": "indent keys of one mapping alike, and put a text with a colon in quotes",
    "found character '\\t' that cannot start any token": "write spaces instead of tabs",
    "could not find expected ':'": "write a space behind the colon of each key",
    "expected <block end>": "indent keys of one mapping alike",
}
FLOAT = re.compile(r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$")
DIGITS = "0123456789"
# What a scalar without quotes is, and the characters that it may begin with. The first pattern that fits says it.
SCALARS = (
    (MERGE, re.compile("<<$"), ["<"]),
    (f"{TAG}null", re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (f"{TAG}bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("!flag", re.compile("(?i:yes|no|on|off)$"), list("yYnNoO")),
    ("!none", re.compile("None$"), ["N"]),
    ("!octal", re.compile("[-+]?0[0-9_]+$"), list("-+0")),
    (f"{TAG}int", re.compile("[-+]?(0|[1-9][0-9_]*)$"), list(f"-+{DIGITS}")),
    (f"{TAG}float", FLOAT, list(f"-+.{DIGITS}")),
)
PATTERNS = {tag: pattern for tag, pattern, _ in SCALARS if tag in KINDS}
REFUSED = {
    "!flag": "is a truth value to some programs and a text to others; write true or false, or put it in quotes",
    "!none": "is null in Python and a text in YAML; write null, or put it in quotes",
    "!octal": "is octal to some programs and decimal to others; leave out the leading zeros, or put it in quotes",
}


class _Loader(yaml.SafeLoader):
    """Makes what JSON can hold, and refuses what has two readings."""

    def compose_mapping_node(self, anchor: dict[str, Node]) -> MappingNode:
        """Reads a mapping's keys as texts, each of which stands once; those that are merged into it may be set anew."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for place, (key, value) in enumerate(node.value):
            if not isinstance(key, ScalarNode):
                raise _refusal("a key has to be a text; put a text that begins with { or [ in quotes", key)
            if key.value in lines:
                raise _refusal(f"the key {key.value!r} stands in line {lines[key.value]} too; join them", key)
            lines[key.value] = key.start_mark.line + 1
            if key.tag != MERGE:
                node.value[place] = (ScalarNode(TEXT, key.value, key.start_mark, key.end_mark), value)
        return node

    def refuse(self, node: ScalarNode) -> None:
        """Refuses a scalar on which programs differ."""
        raise _refusal(f"`{node.value}` {REFUSED[node.tag]}", node)

    def tagged(self, node: ScalarNode) -> object:
        """Makes null, a truth value or a number; what has such a tag has to look like it without the tag too."""
        if not PATTERNS[node.tag].match(str(self.construct_scalar(node))):
            raise _refusal(f"`{node.value}` is not what its tag !!{node.tag.removeprefix(TAG)} says", node)
        return yaml.SafeLoader.yaml_constructors[node.tag](self, node)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around texts that other programs, or the loader, would take for something else."""


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {kind: yaml.SafeLoader.yaml_constructors[kind] for kind in (*KINDS, None)}
for tag, pattern, beginnings in SCALARS:
    _Loader.add_implicit_resolver(tag, pattern, beginnings)
for tag in PATTERNS:
    _Loader.add_constructor(tag, _Loader.tagged)
for tag in REFUSED:
    _Loader.add_constructor(tag, _Loader.refuse)
_Dumper.add_implicit_resolver(f"{TAG}float", FLOAT, list(f"-+.{DIGITS}"))


def _refusal(problem: str, node: Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def read(path: str | Path) -> str:
    """Returns the configuration of a file as JSON.

    Raises:
        OSError: the file cannot be read.
        ConfigError: there is no such file, or it is refused.
    """
    require_file(path)
    return parse(Path(path).read_bytes(), str(path))


def require_file(path: str | Path) -> None:
    """Refuses the name of a file that is not there, and says which one may be meant.

    Raises:
        ConfigError: there is no such file, or it is a folder.
    """
    name = str(path)
    if os.path.isdir(name):
        raise ConfigError(f"{name!r:.200} is a folder; name a file in it")
    require_there(name, "file")


def require_there(name: str, what: str) -> None:
    """Refuses the name of a file or folder that is not there, and says which one may be meant.

    Raises:
        ConfigError: there is nothing of this name.
    """
    if os.path.exists(name):
        return
    folder, last = os.path.split(name)
    there: list[str] = []
    with suppress(OSError, ValueError):  # no such folder, or no name that a folder can have
        there = os.listdir(folder or ".")
    near = difflib.get_close_matches(last, there, n=1)
    hint = f"; did you mean {os.path.join(folder, near[0])!r}?" if near else ""
    where = "" if os.path.isabs(name) else f" in {os.getcwd()}"
    raise ConfigError(f"no such {what}: {name!r:.200}{where}{hint}")


def inline(text: str) -> str:
    """Returns the configuration that a command is given itself, as JSON.

    Raises:
        ConfigError: it is no JSON, or has a key twice, or waits for what nothing fills in.
    """
    try:
        found = json.loads(text, object_pairs_hook=once)
        require_filled(found, "the configuration")
        return json.dumps(found)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{text!r:.200} is no JSON: {error}") from None


def value(text: str, name: str) -> JsonValue:
    """Returns a value alone, of YAML or JSON, as it would be read in a file.

    Raises:
        ConfigError: it is neither, or can be read in two ways.
    """
    return _read(text.encode(errors="surrogateescape"), name)


def parse(data: bytes, name: str) -> str:
    """Returns the configuration that a file of this name holds as JSON. It has to be JSON where the name ends in .json.

    Raises:
        ConfigError: it is neither YAML nor JSON, or something else than one mapping, or can be read in two ways.
    """
    found = _read(data, name)
    if not isinstance(found, dict):
        shown = "nothing" if found is None else f"{json.dumps(found):.60}"
        raise ConfigError(
            f"{name} holds {shown}, but a configuration is a mapping such as `rounds: 3`, with a space behind the colon"
        )
    require_filled(found, name)
    return json.dumps(found)


def _read(data: bytes, name: str) -> JsonValue:
    """Reads a document of YAML or JSON, and says in which line it cannot be read."""
    try:
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
        found: JsonValue = json.loads(json.dumps(_value(text, name)))
        return found
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}, line {line}: this is not UTF-8 ({error.reason}); save it as UTF-8") from None
    except RepeatedKeyError as error:
        lines = [str(number) for number, line in enumerate(text.splitlines(), 1) if f'"{error.key}"' in line]
        raise ConfigError(f"{name}{', lines ' if lines else ''}{', '.join(lines)}: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{name}{_explain(error)}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}, line {line}: YAML has no character U+{error.character:04X}; remove it") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} cannot be read: {error}") from None


def require_filled(value: object, where: str) -> None:
    """Refuses what stands for another value, since nothing fills it in, but for `AS_IT_IS`.

    Raises:
        ConfigError: there is such a value.
    """
    waiting = [(value, "")]
    while waiting:
        part, path = waiting.pop()
        if isinstance(part, dict):
            waiting += [(inner, f"{path}.{key}".lstrip(".")) for key, inner in part.items() if key not in AS_IT_IS]
        elif isinstance(part, list):
            waiting += [(inner, f"{path}.{place}".lstrip(".")) for place, inner in enumerate(part)]
        elif isinstance(part, str) and (unfilled := UNFILLED.search(part)):
            raise ConfigError(
                f"{where}: {path} has {unfilled[0]!r:.60}, which nothing fills in; write the value itself"
            )


def _value(text: str, name: str) -> object:
    """Reads JSON as such under any name: in what YAML takes for JSON there may be no tabs."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError:
        if name.lower().endswith(".json"):
            raise
        return yaml.load(text, _Loader)


def _explain(error: yaml.MarkedYAMLError) -> str:
    """Says where YAML's parser stopped, where what it was reading began, and what it lacks."""
    stopped, began = error.problem_mark, error.context_mark
    where = f", line {stopped.line + 1}: " if stopped else ": "
    since = f"(begun in line {began.line + 1})" if stopped and began and began.line < stopped.line else None
    remedy = next((f"; {remedy}" for said, remedy in REMEDIES.items() if said in str(error.problem)), "")
    return where + " ".join(filter(None, [error.context, error.problem, since])) + remedy


def write(value: JsonValue) -> str:
    """Returns YAML that `read` reads as this value again, and so does any other program."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)
