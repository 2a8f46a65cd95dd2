"""Configurations as people write them: what each thing is read as, and what has two readings."""

import json
from pathlib import Path

import pytest
import yaml

from tasks.gdsd.config import written
from tasks.gdsd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
READ: dict[str, object] = {
    # numbers
    "1e-4": 1e-4,
    "-1E5": -1e5,
    "+.5e0": 0.5,
    "1.0e-5": 1e-5,
    "1_000": 1000,
    "-0": 0,
    "010.5": 10.5,
    # truth values and null
    "True": True,
    "false": False,
    "~": None,
    "": None,
    # texts
    "1e": "1e",
    "0x1F": "0x1F",
    "1:30": "1:30",
    "2024-01-01": "2024-01-01",
    "2024-01-01 10:00:00": "2024-01-01 10:00:00",
    ".inf": ".inf",
    "'yes'": "yes",
    "!!float 3": 3.0,
    "!!int '7'": 7,
    "!!str 010": "010",
    '"010"': "010",
    "noon": "noon",
    "none": "none",
    "'None'": "None",
    "5$": "5$",
    "=": "=",
}


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_a_value_is_what_it_looks_like(text: str, value: object) -> None:
    """If it fails, `learning_rate: 1e-4` is refused as a text, or a text becomes a number or a time without a word."""
    found = json.loads(written.parse(f"key: {text}\n".encode(), "a.yaml"))["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("name", ["a.yaml", "a.yml", "a.JSON", "--inputs-file"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_under_any_name(name: str, encoding: str) -> None:
    """If it fails, a file that some program wrote, with tabs or a byte order mark, is refused for its layout."""
    data = '{\n\t"rate": 1e-4,\n\t"text": "1e-4 \\u00e9\\/"\n}\n'.encode(encoding)
    assert json.loads(written.parse(data, name)) == {"rate": 1e-4, "text": "1e-4 é/"}


def test_keys_are_texts_and_mappings_can_be_shared() -> None:
    """If it fails, a column named `on` or a guard named `2024` gets another name, or anchors cannot be used."""
    text = """
on: &shared {1: a, 1e3: b, null: c}
off: {<<: *shared, 1: d}
deep: {deeper: {deepest: &other {<<: *shared, 1: e}}}
last: {<<: *other}
"""
    shared = {"1": "a", "1e3": "b", "null": "c"}
    assert json.loads(written.parse(text.encode(), "a.yaml")) == {
        "on": shared,
        "off": shared | {"1": "d"},
        "deep": {"deeper": {"deepest": shared | {"1": "e"}}},
        "last": shared | {"1": "e"},
    }


REFUSED = {
    "distill:\n  inner_steps: 2\nname: a\ndistill: {}\n": "a.yaml, line 4: the key 'distill' stands in line 1 too",
    "distill:\n  objective: {name: espo, top_k: 8, name: gdsd}\n": "a.yaml, line 2: the key 'name' stands in line 2",
    "a: [{b: 1}, {'c': 1, c: 2}]": "the key 'c' stands",
    "a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n": "line 4: the key '<<' stands in line 3 too",
    "- name: a\n": 'a.yaml holds [{"name": "a"}], but a configuration is a mapping',
    "rounds=3": 'holds "rounds=3", but',
    "rounds:3": 'holds "rounds:3", but a configuration is a mapping such as `rounds: 3`, with a space behind the colon',
    "# rounds: 3\n": "a.yaml holds nothing, but",
    "a: 1\n---\nb: 2\n": "a.yaml, line 2: expected a single document in the stream but found another document",
    "a:\n\tb: 1\n": r"while scanning for the next token found character '\t' that cannot start any token; write spaces",
    "a: yes": "a.yaml, line 1: `yes` is a truth value to some programs and a text to others; write true or false, or",
    "a: [OFF]": "`OFF` is a truth value",
    "a: 1\nb: None": "a.yaml, line 2: `None` is null in Python and a text in YAML; write null, or put it in quotes",
    "a: {b: [1, 'x${HOME}/p']}": "a.yaml: a.b.1 has '${HOME}', which nothing fills in; write the value itself",
    "a: $HOME/p": "a.yaml: a has '$HOME', which",
    "a: '{{ b }}'": "a.yaml: a has '{{ b }}', which",
    "a: {{ b }}": "line 1: a key has to be a text; put a text that begins with { or [ in quotes",
    "a: b: c": "line 1: mapping values are not allowed here; indent keys of one mapping alike, and put a text with",
    "a:\n    b: 1\n  c: 2\n": "line 3: while parsing a block mapping expected <block end>, but found '<block mapping",
    "a:\n  b: 010": "a.yaml, line 2: `010` is octal to some programs and decimal to others; leave out the leading",
    "a: !!int '010'": "a.yaml, line 1: `010` is not what its tag !!int says",
    "a: 1\nb: !!int 1:30": "a.yaml, line 2: `1:30` is not what",
    "a: !!bool maybe": "line 1: `maybe` is not what its tag !!bool says",
    "a: !!null b": "`b` is not what",
    "a: !!float []": "line 1: expected a scalar node, but found sequence",
    "? [a]\n: 1": "line 1: a key has to be a text",
    "a: &a [*a]": "a.yaml cannot be read: Circular",
    "a: !!python/name:os.system": "line 1: could not determine a constructor for the tag",
    "a: !!binary aGk=": "line 1: could not determine a constructor for the tag",
    "a: 1\nb: caf\udce9": "a.yaml, line 2: this is not UTF-8 (unexpected end of data); save it as UTF-8",
    "a: 1\nb: \x01": "a.yaml, line 2: YAML has no character U+0001; remove it",
    "a: {b: 1\nc: 2\n": "a.yaml, line 2: while parsing a flow mapping expected ',' or '}', but got ':' (begun in",
    "a: 1\nb:2\nc: 3": "a.yaml, line 3: while scanning a simple key could not find expected ':' (begun in line 2)",
    '{\n\t"a": 1,\n\t"a": 2\n}': "a.yaml, lines 2, 3: the key 'a' stands twice",
    "[" * 5000: "a.yaml cannot be read: maximum recursion",
}
REFUSED_JSON = {
    '{"distill": {},\n"rounds": 1,\n"distill": {"inner_steps": 2}}': "a.json, lines 1, 3: the key 'distill' stands",
    '{"a": [{"b": 1, "b": 1}]}': "the key 'b' stands twice in one mapping, with 1 and with 1",
    "[]": "a.json holds [], but a configuration is a mapping",
    '{"ä": 1,\n"ä": 2}': "a.json, lines 1, 2: the key 'ä' stands twice",
    r'{"a": 1, "\u0061": 2}': "a.json, lines 1: the key 'a' stands twice",
    r'{"\u0061": 1, "\u0061": 2}': "a.json: the key 'a' stands twice",
    '{"a": 1}\n{"b": "\udce9"}': "a.json, line 2: this is not UTF-8",
    '{"a": 1,}': "a.json cannot be read: Expecting property name",
    "": "a.json cannot be read: Expecting value: line 1 column 1",
    "[" * 100_000: "a.json cannot be read: maximum recursion",
}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        *(("a.yaml", text, said) for text, said in REFUSED.items()),
        *(("a.json", text, said) for text, said in REFUSED_JSON.items()),
    ],
)
def test_what_has_two_readings_or_none_is_refused(name: str, text: str, said: str) -> None:
    """If it fails, an experiment is another one than was asked for, or nobody learns which line is wrong."""
    with pytest.raises(ConfigError) as caught:
        written.parse(text.encode(errors="surrogateescape"), name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text", [r"${n \choose k}$ of {problem}: {answer}", '{{"score": 5}} {answer}', "$X is {answer}"]
)
def test_what_a_judge_is_asked_is_taken_as_it_is(text: str) -> None:
    """If it fails, a judge cannot be asked for JSON, nor a policy be shown a formula."""
    domain: dict[str, object] = {"prompt": text, "server": {"template": text}}
    assert json.loads(written.parse(json.dumps({"domain": domain}).encode(), "a.yaml")) == {"domain": domain}
    with pytest.raises(ConfigError, match="which nothing fills in"):
        written.parse(json.dumps({"domain": {"server": {"model": "$X"}}}).encode(), "a.yaml")


def test_what_a_run_writes_is_read_again() -> None:
    """If it fails, a run's own config.yaml trains something else, or is refused, here or by another program."""
    texts = ["1e5", "1E-4", "yes", "010", "1_0", "2024-01-01", "1:30", "<<", "", "~", "0x1f", "a: b", "é\n", "-.5"]
    value = {"texts": texts, "numbers": [1e-05, 1e22, 3, -0.5], "others": [None, True, {}], "off": {"1": "on"}}
    assert json.loads(written.parse(written.write(value).encode(), "config.yaml")) == value
    assert yaml.safe_load(written.write(value)) == value


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_recipes_are_read_as_any_program_reads_them(path: Path) -> None:
    """If it fails, a recipe is another one to an editor or a script than to a run."""
    assert json.loads(written.read(path)) == yaml.safe_load(path.read_text())
