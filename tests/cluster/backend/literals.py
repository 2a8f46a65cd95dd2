"""Values on their way from node to node."""

import hashlib
from collections.abc import Iterable, Mapping

import msgpack
from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.core.literals_pb2 import (
    Binary,
    Binding,
    BindingData,
    Literal,
    LiteralCollection,
    LiteralMap,
    Primitive,
    Scalar,
    Union,
    Void,
)
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.types_pb2 import ERROR, Error, LiteralType, PromiseAttribute

PRIMITIVES: dict[type, str] = {bool: "boolean", int: "integer", float: "float_value", str: "string_value"}


def bind(bindings: Iterable[Binding], inputs: LiteralMap, done: Mapping[str, LiteralMap]) -> LiteralMap:
    """Returns what a node is given, of the inputs around it and the outputs of nodes that are done."""
    return LiteralMap(literals={each.var: _resolve(each.binding, inputs, done) for each in bindings})


def _resolve(binding: BindingData, inputs: LiteralMap, done: Mapping[str, LiteralMap]) -> Literal:
    match binding.WhichOneof("value"):
        case "scalar":
            return Literal(scalar=binding.scalar)
        case "collection":
            items = [_resolve(item, inputs, done) for item in binding.collection.bindings]
            return Literal(collection=LiteralCollection(literals=items))
        case "map":
            entries = {name: _resolve(item, inputs, done) for name, item in binding.map.bindings.items()}
            return Literal(map=LiteralMap(literals=entries))
        case _:
            promise = binding.promise
            source = done[promise.node_id] if promise.node_id not in ("", "start-node") else inputs
            if promise.var not in source.literals:  # asked for, it would be there, and empty
                raise ValueError(f"{promise.node_id or 'the workflow'} has no {promise.var} to bind")
            found = source.literals[promise.var]
            return _attribute(found, promise.attr_path) if promise.attr_path else found


def _attribute(literal: Literal, path: Iterable[PromiseAttribute]) -> Literal:
    """Follows a path into a pydantic model, which travels as msgpack."""
    if not literal.scalar.HasField("binary"):
        raise ValueError(f"this backend follows attributes of models alone, not of {literal.WhichOneof('value')}")
    value = msgpack.unpackb(literal.scalar.binary.value, strict_map_key=False)
    for step in path:
        value = value[step.int_value if step.WhichOneof("value") == "int_value" else step.string_value]
    return _literal(value)


def _literal(value: object) -> Literal:
    if value is None:
        return Literal(scalar=Scalar(none_type=Void()))
    if isinstance(value, list):
        return Literal(collection=LiteralCollection(literals=[_literal(item) for item in value]))
    if type(value) in PRIMITIVES:
        return Literal(scalar=Scalar(primitive=Primitive(**{PRIMITIVES[type(value)]: value})))
    return Literal(scalar=Scalar(binary=Binary(value=msgpack.packb(value), tag="msgpack")))


def items_of(inputs: LiteralMap, bound: Iterable[str]) -> list[LiteralMap]:
    """Returns the inputs of each item of a map: its own of each list, except of those that all items share."""
    lists = {
        name: list(value.collection.literals)
        for name, value in inputs.literals.items()
        if value.HasField("collection") and name not in set(bound)
    }
    shared = {name: value for name, value in inputs.literals.items() if name not in lists}
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return [LiteralMap(literals=shared | row) for row in rows]


def gathered(outputs: list[LiteralMap], names: Iterable[str]) -> LiteralMap:
    """Returns the outputs of a map: of each name a list, with an entry per item."""
    lists = {name: LiteralCollection(literals=[item.literals[name] for item in outputs]) for name in names}
    return LiteralMap(literals={name: Literal(collection=found) for name, found in lists.items()})


def with_error(inputs: LiteralMap, task: TaskTemplate, node: str, message: str) -> LiteralMap:
    """Returns the inputs of a failure node, among them the error in the place that its task has for it."""
    error = Literal(scalar=Scalar(error=Error(failed_node_id=node, message=message)))
    found = LiteralMap()
    found.CopyFrom(inputs)
    for name, variable in task.interface.inputs.variables.items():
        kinds: list[LiteralType] = [kind for kind in variable.type.union_type.variants if kind.simple == ERROR]
        if kinds:
            found.literals[name].CopyFrom(Literal(scalar=Scalar(union=Union(value=error, type=kinds[0]))))
    return found


def given_to(plan: LaunchPlan, given: LiteralMap) -> LiteralMap:
    """Returns the inputs of an execution: what its launch plan fixes, else what is given, else the defaults.

    Raises:
        ValueError: one is missing, unknown or fixed.
    """
    parameters, fixed = plan.spec.default_inputs.parameters, plan.spec.fixed_inputs.literals
    refused = [name for name in given.literals if name in fixed or name not in parameters]
    defaults = {name: each.default for name, each in parameters.items() if each.HasField("default")}
    missing = [name for name, each in parameters.items() if each.required and name not in given.literals]
    if refused or missing:
        raise ValueError(f"{plan.id.name}: it does not take {refused} and needs {missing}")
    return LiteralMap(literals=defaults | dict(given.literals) | dict(fixed))


def cache_key(task: TaskTemplate, inputs: LiteralMap) -> str:
    """Returns what equal calls of a task have in common; a value that has a hash is known by it, not by its address."""
    ignored = set(task.metadata.cache_ignore_input_vars)
    known = {name: _identity(value) for name, value in inputs.literals.items() if name not in ignored}
    parts = [
        *(part.encode() for part in (task.id.project, task.id.domain, task.id.name, task.metadata.discovery_version)),
        task.interface.SerializeToString(deterministic=True),
        LiteralMap(literals=known).SerializeToString(deterministic=True),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _identity(value: Literal) -> Literal:
    if value.hash:
        return Literal(hash=value.hash)
    if value.HasField("collection"):
        items = [_identity(item) for item in value.collection.literals]
        return Literal(collection=LiteralCollection(literals=items))
    if value.HasField("map"):
        return Literal(map=LiteralMap(literals={name: _identity(item) for name, item in value.map.literals.items()}))
    return value
