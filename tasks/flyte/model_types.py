"""Describes the project's pydantic models to flytekit: once each, with no more than a person or a cluster reads.

flytekit's own description of a model is its whole JSON schema. It makes one wherever a task names the model or another
one around it. That would be 1,465 times when `train` is loaded, two thirds of the start of `pyflyte run`, and 140 kB of
`train --help`.
"""

from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from flytekit.core.constants import CACHE_KEY_METADATA, MESSAGEPACK, SERIALIZATION_FORMAT
from flytekit.core.type_engine import TypeEngine
from flytekit.extras.pydantic_transformer.transformer import PydanticTransformer
from flytekit.models.annotation import TypeAnnotation
from flytekit.models.types import LiteralType, SimpleType, TypeStructure
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasks.gdsd.records import Record
from tasks.gdsd.strict import StrictJson

PLAIN: dict[object, str] = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}
JsonSchema = dict[str, object]


class ModelTransformer(PydanticTransformer):  # type: ignore[misc]  # flytekit gives it no types
    """flytekit's own, with a description that names a model's fields and not what is inside them."""

    def get_literal_type(self, t: type[BaseModel]) -> LiteralType:
        """Returns a model's type in Flyte's language."""
        return _described(t)


@cache
def _described(model: type[BaseModel]) -> LiteralType:
    fields = {name: TypeEngine.to_literal_type(field.annotation) for name, field in model.model_fields.items()}
    properties = {name: _property(field) for name, field in model.model_fields.items()}
    return LiteralType(
        simple=SimpleType.STRUCT,
        metadata={"title": model.__name__, "type": "object", "properties": properties},
        structure=TypeStructure(tag="", dataclass_type=fields),  # by which a workflow reads a field of a promise
        annotation=TypeAnnotation({CACHE_KEY_METADATA: {SERIALIZATION_FORMAT: MESSAGEPACK}}),
    )


def _property(field: FieldInfo) -> JsonSchema:
    said = {} if field.description is None else {"description": field.description}
    return _kind(field.annotation) | said


def _kind(annotation: object) -> JsonSchema:
    """Returns the JSON schema of a field's value, without what is inside a model."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation.__doc__:
        return {"type": "object", "description": annotation.__doc__.split("\n\n")[0]}
    if origin is list:
        return {"type": "array", "items": _kind(inner[0])}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, UnionType):
        kinds = [_kind(item) for item in inner]
        return {"anyOf": [kind for index, kind in enumerate(kinds) if kind not in kinds[:index]]}
    return {"type": PLAIN.get(annotation, "object")}


for base in (Record, StrictJson):
    TypeEngine.register_additional_type(ModelTransformer(), base)
