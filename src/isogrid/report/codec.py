"""Frozen dataclasses to plain JSON values and back, checked field by field.

The field's annotation is the schema.  Understood are ``bool``, ``int``, ``float``, ``str``, ``Literal``, other
dataclasses, ``X | None``, ``Sequence[X]``, ``tuple[X, Y]`` and ``Mapping[str, X]``.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, Union

import numpy as np

from isogrid.errors import FormatError, UsageError

_LIMIT = 2**63


def encode(value: object, path: str) -> Any:
    """Return ``value`` as JSON types: dataclasses become objects, numpy numbers and arrays become plain ones.

    Raises UsageError, naming the field by ``path``, for a number that is not finite or a type JSON does not have.

    >>> import numpy as np
    >>> encode({"loss": np.float32(0.5), "counts": np.arange(3)}, "step")
    {'loss': 0.5, 'counts': [0, 1, 2]}
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"report field {path} is {value}, and a report holds finite numbers only.")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: encode(getattr(value, field.name), f"{path}.{field.name}")
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): encode(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence):
        return [encode(item, f"{path}[{index}]") for index, item in enumerate(value)]
    raise UsageError(f"report field {path} is of type {type(value).__name__}, which JSON cannot hold.")


def decode(kind: Any, value: object, path: str) -> Any:
    """Return the JSON ``value`` as ``kind``; sequences become tuples.

    Raises FormatError, naming the field by ``path``, if anything is missing, unexpected, of another type or not finite.

    >>> decode(tuple[int, int] | None, [8, 8], "shape")
    (8, 8)
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else decode(arguments[0], value, path)
    if origin is Literal:
        if value not in arguments:
            raise _unexpected(path, value, "one of " + ", ".join(map(str, arguments)))
        return value
    if origin is tuple:
        items = _items(value, path)
        if len(items) != len(arguments):
            raise _unexpected(path, value, f"a list of {len(arguments)}")
        return tuple(
            decode(part, item, f"{path}[{index}]")
            for index, (part, item) in enumerate(zip(arguments, items, strict=True))
        )
    if origin is Sequence:
        return tuple(decode(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(_items(value, path)))
    if origin is Mapping:
        return {key: decode(arguments[1], item, f"{path}.{key}") for key, item in _object(value, path).items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _instance(kind, _object(value, path), path)
    if kind is float:
        return _number(value, path)
    # bool is a subclass of int, so the exact type decides.
    if type(value) is not kind:
        raise _unexpected(path, value, f"a value of type {kind.__name__}")
    if isinstance(value, int) and abs(value) >= _LIMIT:
        raise _unexpected(path, value, "a whole number of 64 bits")
    return value


def _instance(kind: type, fields: Mapping[str, object], path: str) -> Any:
    annotations = _annotations(kind)
    optional = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    if missing := sorted(annotations.keys() - fields.keys() - optional):
        raise FormatError(f"Report field {path} lacks {', '.join(missing)}.")
    if extra := sorted(fields.keys() - annotations.keys()):
        raise FormatError(f"Report field {path} holds {', '.join(extra)}, which this version does not know.")
    values = {
        name: decode(annotation, fields[name], f"{path}.{name}")
        for name, annotation in annotations.items()
        if name in fields
    }
    try:
        return kind(**values)
    except UsageError as error:
        raise FormatError(f"Report field {path} is damaged: {error}") from error


@cache
def _annotations(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _number(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unexpected(path, value, "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _unexpected(path, value, "a finite number")
    return number


def _items(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise _unexpected(path, value, "a list")
    return value


def _object(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _unexpected(path, value, "an object")
    return value


def _unexpected(path: str, value: object, accepted: str) -> FormatError:
    arrived = type(value).__name__ if isinstance(value, list | dict) else repr(value)
    return FormatError(f"Report field {path} is {arrived[:60]}, and it must be {accepted}.")
