"""Single fields of a configuration that a command changes: `--set rollout.group_size=8`.

What comes out is the configuration of a file in which the field has been edited. Where the file leaves out the section
of the field, the rest of the section keeps its default. A kind that is chosen by another `name` begins with its own
defaults, since the fields that were there belong to the other kind. What pins the content of another path is left out.
Paths are relative to the working directory, as in any other option.
"""

import json
import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, RootModel

from tasks.gdsd.config import written
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.strict import Located

NAME = "name"  # the field by which a kind is chosen, such as a domain
PATH = "path"  # the field that names what is pinned by its content
PINS = ("sha256", "folder")  # beside it: the digest, and where a domain's module was found
DROP = (NAME, PATH)  # fields that drop others beside them, in the order in which they are changed
HOW = "write the path of a field, '=' and its value, such as rollout.group_size=8"
PLACE = re.compile("[0-9]{1,6}")  # in a list

Types = list[object]  # that a value may be of: models, lists, mappings and plain ones


def apply(model: type[BaseModel], text: str, changed: Sequence[str]) -> str:
    """Returns the JSON of a configuration with some fields changed; the model has still to check all of them.

    Args:
        text: the JSON of a configuration of the model.
        changed: a path, `=` and a value each, which is read as a configuration file is. Paths name items of lists by
            their places, from 0.

    Raises:
        ConfigError: one is none of these, leads through a value that has no fields, or stands twice.
    """
    values: JsonValue = json.loads(text)
    new: dict[str, JsonValue] = {}
    for change in changed:
        path, equals, value = change.partition("=")
        path = path.strip()
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set {change!r:.200}: {HOW}")
        if path in new:
            raise ConfigError(f"--set: {path} is set twice; set it once")
        if not value.strip():
            raise ConfigError(f"--set {change!r:.200}: there is no value; write null for none, or '\"\"' for no text")
        new[path] = written.value(value, f"--set {path}")
    for path in sorted(new, key=_order):
        values = _changed(values, _types(model), path.split("."), new[path], "")
    written.require_filled(values, "--set")
    return json.dumps(values)


def _order(path: str) -> tuple[int, int]:
    """Sorts changes so that none drops what another one sets, in whatever order they were given."""
    parts = path.split(".")
    return len(parts), DROP.index(parts[-1]) if parts[-1] in DROP else len(DROP)


def _changed(found: JsonValue, types: Types, path: list[str], value: JsonValue, above: str) -> JsonValue:
    """Returns what was found at the path `above`, with another value where the rest of the path leads."""
    if not path:
        return _from_here(types, value)
    part, *rest = path
    inner, below = _inside(types, found, part), f"{above}.{part}".lstrip(".")
    if isinstance(found, dict):
        if not rest and part == NAME and _is_another(types, found, value):
            found = {}
        if not rest and part == PATH and _models(types) and found.get(PATH) != _from_here(inner, value):
            found = {name: item for name, item in found.items() if name not in PINS}
        old = found.get(part)
        if rest and old is None:
            old = _default(_chosen(types, found), part)
        return found | {part: _changed(old, inner, rest, value, below)}
    if isinstance(found, list):
        if not (PLACE.fullmatch(part) and int(part) < len(found)):
            raise ConfigError(f"--set: {above} is a list of {len(found)}, and has no {part!r:.60}")
        place = int(part)
        return [*found[:place], _changed(found[place], inner, rest, value, below), *found[place + 1 :]]
    raise ConfigError(f"--set: {above} is {json.dumps(found):.60}, which has no fields")


def _types(annotation: object) -> Types:
    """Returns what a value may be of, by its annotation; of a path the mark."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return [item for item in inside if isinstance(item, Located)] or _types(inside[0])
    if origin in (Union, UnionType):
        return [found for each in inside for found in _types(each)]
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _field(annotation, "root")
    return [annotation]


def _field(model: type[BaseModel], name: str) -> Types:
    field = model.model_fields.get(name)
    if field is None:
        return []
    return [item for item in field.metadata if isinstance(item, Located)] or _types(field.annotation)


def _inside(types: Types, found: JsonValue, part: str) -> Types:
    """Returns what a field of a mapping, or an item of a mapping or list, may be of."""
    if isinstance(found, dict) and (fields := [item for kind in _chosen(types, found) for item in _field(kind, part)]):
        return fields
    return [item for each in types if get_origin(each) in (dict, list) for item in _types(get_args(each)[-1])]


def _models(types: Types) -> list[type[BaseModel]]:
    return [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]


def _chosen(types: Types, found: dict[str, JsonValue]) -> list[type[BaseModel]]:
    """Returns the model of a mapping, by its name, which is that of the first by default; all, if none has names."""
    models = _models(types)
    return [model for model in models if _name(model) == found.get(NAME, _name(models[0]))] or models


def _name(model: type[BaseModel]) -> object:
    return model.model_fields[NAME].default if NAME in model.model_fields else None


def _is_another(types: Types, found: dict[str, JsonValue], name: JsonValue) -> bool:
    """Whether a name chooses another model than the one that a mapping is of."""
    return len(_models(types)) > 1 and _name(_chosen(types, found)[0]) not in (None, name)


def _default(models: list[type[BaseModel]], name: str) -> JsonValue:
    """Returns what a file would say of a field that it leaves out: nothing, where that has no default."""
    for model in models:
        field = model.model_fields.get(name)
        if field is not None and not field.is_required() and not field.default_factory_takes_validated_data:
            found = _as_written(field.get_default(call_default_factory=True))
            return {} if found is None else found
    return {}


def _as_written(value: object) -> JsonValue:
    """Returns what a file would say of a default: of a model its name, and what differs from the model's defaults."""
    match value:
        case RootModel():
            return _as_written(value.root)
        case BaseModel():
            return {name: _as_written(item) for name, item in value if name == NAME or name in value.model_fields_set}
        case dict():
            return {str(name): _as_written(item) for name, item in value.items()}
        case list():
            return [_as_written(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"a default of {type(value).__name__}, which no file can have")


def _from_here(types: Types, value: JsonValue) -> JsonValue:
    """Makes the paths in a value absolute."""
    if isinstance(value, str):
        return next((mark.absolute(value) for mark in types if isinstance(mark, Located)), value)
    if isinstance(value, dict):
        return {name: _from_here(_inside(types, value, name), item) for name, item in value.items()}
    if isinstance(value, list):
        return [_from_here(_inside(types, value, ""), item) for item in value]
    return value
