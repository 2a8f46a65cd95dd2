"""The base of all configuration models: strict, with errors that say what, where and what is allowed instead."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Annotated, Self, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    RootModel,
    ValidationError,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from tasks.gdsd import files
from tasks.gdsd.errors import ConfigError, GdsdError, RepeatedKeyError

FOLDER = "folder"  # of pydantic's context: what relative paths are relative to
Item = TypeVar("Item")
SHOWN = 200  # characters of a value that an error shows
PLACES = 3  # that an error names for a key; of a key with more of them it is not known which was meant
NUMBERS = {"int_type": "a whole number", "float_type": "a number", "int_from_float": "a whole number"}
MODELS = dict.fromkeys(("model_type", "model_attributes_type"), "a mapping")
MAPPINGS = {**MODELS, "dict_type": "a mapping"}
# pydantic's kinds of error, and what a configuration should have there.
KINDS = {
    kind: f"it should be {what}"
    for kind, what in {
        **NUMBERS,
        **MAPPINGS,
        "string_type": "a text",
        "bool_type": "true or false, without quotes",
        "list_type": "a list such as [a, b]",
        "tuple_type": "a list such as [a, b]",
    }.items()
}
NOTHING = ("none", "null", "nil", "~", "")


@dataclass(frozen=True)
class Located:
    """Marks a text as a path or URI, which is made absolute: it is relative to the file that names it.

    Where no file does, it is relative to the working directory.
    """

    before: str = ""  # the beginning of those texts that are paths from there on
    beside: str | None = None  # the beginning of those texts that are none

    def absolute(self, text: str, folder: str | Path = "") -> str:
        """Returns the text for all folders; by default, it is relative to the working directory."""
        if not text.startswith(self.before) or (self.beside is not None and text.startswith(self.beside)):
            return text
        return self.before + files.absolute(text.removeprefix(self.before), folder)

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Lets pydantic make it absolute once it is known to be a text."""
        return core_schema.with_info_after_validator_function(self._validated, handler(source))

    def _validated(self, text: str, info: ValidationInfo) -> str:
        return self.absolute(text, (info.context or {}).get(FOLDER, ""))


Count = Annotated[int, Field(ge=1, le=1_000_000)]
Place = Annotated[str, Field(min_length=1), Located()]


class StrictJson(BaseModel):
    """Reads JSON strictly, and says what is wrong in a person's words."""

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: object) -> Self:
        """Reads a configuration strictly, whatever the caller asks for.

        Raises:
            ConfigError: naming each refused field.
        """
        return cls.read(json_data, Path())

    @classmethod
    def read(cls, json_data: str | bytes | bytearray, folder: Path) -> Self:
        """Reads a configuration whose paths are relative to a folder.

        Whole floats count as integers: some senders of JSON write 3 as 3.0.

        Raises:
            ConfigError: naming each refused field.
        """
        try:
            plain = json.dumps(json.loads(json_data, parse_float=_whole_if_possible, object_pairs_hook=once))
            return super().model_validate_json(plain, strict=True, context={FOLDER: folder})
        except ValidationError as error:
            raise ConfigError(explain(cls, error)) from None
        except json.JSONDecodeError as error:
            raise ConfigError(f"{cls.__name__} refused: this is no JSON: {error}") from None
        except GdsdError as error:
            raise error.with_traceback(None) from None  # its way through pydantic says nothing


class Config(StrictJson):
    """Base of all configuration models: strict, frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


def by_name(default: str) -> Discriminator:
    """Tells the members of a union apart by their `name`; a mapping without one means the default."""

    def name(value: object) -> object:
        if isinstance(value, dict):
            return value.get("name", default)
        return vars(value).get("name") if isinstance(value, BaseModel) else None

    return Discriminator(name)


def local_or_hub(value: object) -> str:
    """Tells a source on the hub, which has the key `hub`, from one with a `path`."""
    fields = vars(value) if isinstance(value, BaseModel) else value
    return "hub" if isinstance(fields, dict) and "hub" in fields else "path"


def distinct(values: list[Item]) -> list[Item]:
    """Refuses a list that names something more than once."""
    if twice := [str(value) for place, value in enumerate(values) if value in values[:place]]:
        raise ValueError(f"has {', '.join(twice)} more than once; name it once")
    return values


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Makes an object of JSON (json's `object_pairs_hook`), which json would make of the last of several equal keys.

    Raises:
        RepeatedKeyError: a key stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        first: dict[str, object] = {}
        for key, value in pairs:
            if key in first:
                error = RepeatedKeyError(
                    f"the key {key!r:.60} stands twice in one mapping, with {first[key]!r:.60} and with {value!r:.60}; "
                    "join them, or remove one"
                )
                error.key = key
                raise error
            first[key] = value
    return found


def _whole_if_possible(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Turns a validation error into one line per refused field."""
    lines = []
    for item in error.errors(include_url=False):
        if item["type"] == "default_factory_not_called":
            continue  # follows from another refused field of the same model
        path, parent = _locate(model, item["loc"])
        where = ".".join(path) or model.__name__
        if item["type"] == "extra_forbidden":
            lines.append(
                f"{where}: unknown key; {_meant(model, parent, path)}allowed: {', '.join(parent.model_fields)}"
            )
        elif item["type"] == "union_tag_not_found":
            field = parent.model_fields.get(path[-1]) if path else None
            name = submodels(field.annotation if field else parent)[0].model_fields["name"].default
            lines.append(f"{where}: got {_shown(item['input'])}; it should be a mapping such as {{'name': {name!r}}}")
        elif item["type"] == "union_tag_invalid":
            context = item["ctx"]
            near = difflib.get_close_matches(context["tag"], context["expected_tags"].replace("'", "").split(", "), n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            lines.append(f"{where}.name: got {context['tag']!r}; {hint}allowed: {context['expected_tags']}")
        elif item["type"] == "value_error":  # a cross-check's own sentence, which pydantic prefixes
            said = item["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {said}" if path else said)
        elif item["type"] == "missing":
            lines.append(f"{where}: it is missing{_about(parent, path)}")
        else:
            wanted = KINDS.get(item["type"]) or f"{item['msg'][0].lower()}{item['msg'][1:]}"
            remedy = _remedy(item["type"], item["input"], parent, path)
            lines.append(f"{where}: got {_shown(item['input'])}; {wanted}{remedy}{_range(parent, path)}")
    return f"{model.__name__} refused:\n" + "\n".join(f"  {line}" for line in lines)


def _shown(value: object) -> str:
    """A value as configurations write it, and of a long one the beginning."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if type(value) is int and abs(value) >= 10**16:
        return f"{Decimal(value):.4g}"
    return repr(value) if len(repr(value)) <= SHOWN else f"{value!r:.{SHOWN}}..."


def _remedy(kind: str, value: object, model: type[BaseModel], path: list[str]) -> str:
    """Says what to do about a value that is not of the wanted kind."""
    if kind == "string_type" and isinstance(value, int | float):
        return f", so put it in quotes: without them it is read as a number or a truth value{_about(model, path)}"
    if kind in MAPPINGS and value is None:
        return "; give it fields, indented below it, or leave it out"
    if kind in MODELS:
        inner = submodels(model.model_fields[path[-1]].annotation) if path and path[-1] in model.model_fields else []
        return f" with {' or '.join(', '.join(each.model_fields) for each in inner)}" if inner else ""
    if value is None or (isinstance(value, str) and value.strip().casefold() in NOTHING):
        field = model.model_fields.get(path[-1]) if path else None
        if field is not None and NoneType in get_args(field.annotation):
            return "; write null, without quotes, for none"
        required = field is not None and field.is_required()
        return "" if required else "; leave it out for the default" if field is not None else "; leave it out"
    if kind in NUMBERS and isinstance(value, str):
        return ", in digits, without quotes, commas or units"
    return _about(model, path) if kind == "string_pattern_mismatch" else ""


def _about(model: type[BaseModel], path: list[str]) -> str:
    """What a field's own declaration says of it."""
    field = model.model_fields.get(path[-1]) if path else None
    return f" ({field.description})" if field is not None and field.description else ""


def _meant(model: type[BaseModel], parent: type[BaseModel], path: list[str]) -> str:
    """Says what an unknown key may be meant for: the same key in another place, or one that looks like it."""
    key = path[-1]
    if ":" in key:
        return "write a space behind the colon; "
    if "." in key:
        return "write each part of it below the one before; "
    below = [".".join([*path[:-1], place]) for place in _places(parent, key)]
    anywhere = _places(model, key)
    places = below or anywhere
    is_elsewhere = ".".join(path) not in anywhere and 0 < len(places) <= PLACES
    # Where the same key stands elsewhere, a slip of the pen is likelier only if it is a small one.
    near = difflib.get_close_matches(key.casefold(), parent.model_fields, n=1, cutoff=0.8 if is_elsewhere else 0.5)
    meant = [*near, *places] if is_elsewhere else near
    return f"did you mean {' or '.join(map(repr, meant))}? " if meant else ""


def _places(model: type[BaseModel], key: str) -> list[str]:
    """The dotted paths of all fields below a model that have this name, with NAME for a key of a mapping."""
    found = []
    for name, field in model.model_fields.items():
        if name == key:
            found.append(name)
        keyed = f"{name}.NAME" if dict in map(get_origin, _parts(field.annotation)) else name
        for inner in submodels(field.annotation):
            found += [f"{keyed}.{place}" for place in _places(inner, key)]
    return list(dict.fromkeys(found))


def _parts(annotation: object) -> list[object]:
    """An annotation, and all that it is made of."""
    return [annotation, *(inner for part in get_args(annotation) for inner in _parts(part))]


def _locate(model: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], type[BaseModel]]:
    """Returns the dotted path of an error, and the model that its last part is a field of.

    pydantic's location also names the chosen member of a union, which nobody wrote in the configuration: by the
    member's `name`, or by its first field where it has none.
    """
    path: list[str] = []
    parents = kinds = submodels(model)

    def first(kind: type[BaseModel]) -> str:
        return next(iter(kind.model_fields))

    for part in map(str, location):
        named = [kind for kind in kinds if part in (kind.model_fields.get("name", FieldInfo()).default, first(kind))]
        if len(kinds) > 1 and named:
            kinds = named
            continue
        path.append(part)
        field = kinds[0].model_fields.get(part)
        parents = kinds
        if field is not None:
            kinds = submodels(field.annotation) or kinds
    return path, parents[0]


def models(value: object, place: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Yields every model in a configuration, with its dotted path."""
    if isinstance(value, RootModel):
        yield from models(value.root, place)
        return
    if isinstance(value, BaseModel):
        yield place, value
        inside = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, dict):
        inside = value
    else:
        return
    for name, part in inside.items():
        yield from models(part, f"{place}.{name}".lstrip("."))


def submodels(annotation: object) -> list[type[BaseModel]]:
    """The models inside an annotation: itself, or the members of an optional, a union, a container or a root model."""
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return submodels(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in submodels(part)]


def _range(model: type[BaseModel], path: list[str]) -> str:
    """The allowed values of a field, from its own declaration."""
    schema = model.model_json_schema()["properties"].get(path[-1], {}) if path else {}
    schema = next((option for option in schema.get("anyOf", []) if len(option) > 1), schema)  # of an optional field
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[word]}" for word, sign in words.items() if word in schema]
    if "enum" in schema:
        bounds.append("one of " + ", ".join(map(repr, schema["enum"])))
    kind = schema.get("type", "")
    return f" (allowed: {kind} {' and '.join(bounds)})".replace("  ", " ") if bounds else ""
