"""Writes a page with every field of every configuration, from the models.

python -m tasks.fields docs/fields.md
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_origin

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue

from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.strict import submodels

ROOTS: dict[str, type[BaseModel]] = {"train": TrainConfig, "evaluate": EvaluateConfig, "compare": CompareConfig}
HEAD = """# Every field of every configuration

`make fields` makes this page from the models. A test compares it with them.

A configuration is a YAML or JSON file, or JSON on the command line (`--config`). `--set` changes [single
fields](running.md#how-do-i-change-one-field). What a configuration leaves out has the default of this page. An unknown
key, another type or a value out of range is refused when the configuration is loaded. So are combinations that make no
sense. They are not listed here, and the message says what to change. A link in the column "type" leads to a section
whose fields are nested under the field's key. The line that begins with "In" says where the fields of a section belong.
It names only `train` where `evaluate` or `compare` has the same place. The workflows `retrain` and `evaluate_champion`
take what `train` and `evaluate` take.
"""
WORDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
NUMBERS = {"minItems": "at least", "minProperties": "at least", "maxItems": "at most", "maxProperties": "at most"}


def page() -> str:
    """Returns the whole page: a section for each model, in the order in which the workflows come to them."""
    places: dict[type[BaseModel], dict[str, list[str]]] = {}
    for workflow, root in ROOTS.items():
        for model, place in _walk(root, ""):
            known = places.setdefault(model, {})
            if not any(place in found for found in known.values()):
                known.setdefault(workflow, []).append(place)
    return "\n".join([HEAD, *(_section(model, where) for model, where in places.items())])


def _walk(model: type[BaseModel], place: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yields a model and all below it, each with the dotted place of its keys."""
    yield model, place
    for name, field in model.model_fields.items():
        below = f"{place}.{name}" if place else name
        if get_origin(field.annotation) is dict:
            below += ".<name>"
        for child in submodels(field.annotation):
            yield from _walk(child, below)


def _section(model: type[BaseModel], places: Mapping[str, list[str]]) -> str:
    schema = model.model_json_schema()
    about = (model.__doc__ or "").strip().partition("\n\n")[0]
    rows = []
    for name, field in model.model_fields.items():
        kind, allowed = _kind(schema["properties"][name], schema.get("$defs", {}))
        about_it = (field.description or _about(field)).replace("<", "&lt;")
        cells = (f"`{name}`", kind, allowed, _default(field), about_it)
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(
        [
            f"## {model.__name__}",
            "",
            " ".join(about.split()),
            "",
            "In " + "; in ".join(_where(workflow, found) for workflow, found in places.items()) + ".",
            "",
            "| field | type | allowed | default | what it is |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _where(workflow: str, places: Sequence[str]) -> str:
    said = ", ".join(f"`{place}`" for place in places)
    return f"`{workflow}`: {said if places != [''] else 'the whole configuration'}"


def _about(field: FieldInfo) -> str:
    """Says what a field without a description is: the name of a kind, or what its section says of itself."""
    kinds = submodels(field.annotation)
    if not kinds:
        return "which kind it is"
    if len(kinds) > 1:
        return "one of these kinds, chosen by its `name`"
    return " ".join((kinds[0].__doc__ or "").strip().partition("\n\n")[0].split())


def _kind(schema: JsonSchemaValue, known: JsonSchemaValue) -> tuple[str, str]:
    """Returns the type of a field in words, and what is allowed of that type."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = known[name]
        return (f"[{name}](#{name.lower()})", "") if "properties" in target else _kind(target, known)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        found = [_kind(option, known) for option in options]
        return " or ".join(dict.fromkeys(kind for kind, _ in found)), "; ".join(said for _, said in found if said)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum") or [schema["const"]]
        return WORDS[schema.get("type", "string")], ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        kind, each = _kind(schema["items"], known)
        return f"list of: {kind}", "; ".join([*_numbers(schema), *([f"each {each}"] if each else [])])
    if schema.get("type") == "object":
        pattern, values = next(iter(schema.get("patternProperties", {}).items()), ("", None))
        kind, each = _kind(values or schema["additionalProperties"], known)
        keys = [f"names like `{pattern}`"] if pattern else []
        return f"names, each with: {kind}", "; ".join([*keys, *_numbers(schema), *([f"each {each}"] if each else [])])
    bounds = [f"{sign} {schema[word]:,.10g}" for word, sign in BOUNDS.items() if word in schema]
    if schema.get("minLength") == 1:
        bounds.append("not empty")
    if "pattern" in schema:
        bounds.append(f"like `{schema['pattern']}`")
    return WORDS[schema["type"]], " and ".join(bounds)


def _numbers(schema: JsonSchemaValue) -> list[str]:
    """Says how many items there may be."""
    return [f"{sign} {schema[word]}" for word, sign in NUMBERS.items() if word in schema]


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None and field.default_factory_takes_validated_data:
        return "read when it is loaded"
    return "must be given" if field.is_required() else _shown(field.get_default(call_default_factory=True))


def _shown(value: object) -> str:
    """Shows a default: a value as JSON, of a model its kind and what differs from its own defaults."""
    if isinstance(value, RootModel):
        return _shown(value.root)
    if isinstance(value, BaseModel):
        changed = value.model_dump(exclude_defaults=True, exclude_unset=True)
        fields = type(value).model_fields
        kind = fields["name"].default if "name" in fields else None
        said = {"name": kind} | changed if isinstance(kind, str) and "name" not in changed else changed
        return f"`{json.dumps(said)}`" if said else "its defaults"
    if isinstance(value, dict) and value and all(isinstance(item, BaseModel) for item in value.values()):
        return ", ".join(f"`{name}`" for name in value)
    return f"`{json.dumps(value)}`"


def main(arguments: Sequence[str]) -> int:
    """Writes the page; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.fields", description="Writes the page of all fields.")
    parser.add_argument("page", help="the file to write")
    Path(parser.parse_args(arguments).page).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
