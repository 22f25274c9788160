"""Options as JSON and back, for checkpoints and run states."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from core.utils.aliases import current_options
from smpl_renderer.bounded_files import CONTENT_ERRORS
from smpl_renderer.errors import InputError

T = TypeVar("T")


def options_to_json(options: Any) -> str:
    """Convert a dataclass of options, with its nested ones, to one line of JSON."""
    return json.dumps(dataclasses.asdict(options), default=str)  # paths are the only type of option that JSON lacks


def options_from_json(cls: type[T], text: str, source: str) -> T:
    """Parse options that `options_to_json` of this or an earlier version wrote.

    Options missing in the text, which are newer than it, have their defaults. Earlier names are accepted.

    Args:
        cls: Class of the options.
        text: Output of `options_to_json`.
        source: Origin of the text, for messages.
    Raises:
        InputError: If the text is not JSON, an option is unknown (written by a newer version), or a value has a type
            that does not fit.
    """
    try:
        return _parse(cls, json.loads(text), cls.__name__)
    except _Misfit as error:
        raise InputError(f"{source}: {error}; it was written by another version of this program") from error
    except CONTENT_ERRORS as error:  # deep JSON, and numbers that are too large
        raise InputError(f"{source}: its options are not JSON ({error}); copy the file again") from error


class _Misfit(ValueError):
    """A value that does not fit its option."""


def _parse(hint: Any, value: Any, name: str) -> Any:
    """Convert a value read from JSON to the type `hint` of the field `name`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _parse_dataclass(hint, value, name)
    if origin in (Union, types.UnionType):  # options use unions only as `X | None`
        (inner,) = (a for a in arguments if a is not type(None))
        return None if value is None else _parse(inner, value, name)
    if origin is tuple and isinstance(value, list):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) == len(value):
            return tuple(_parse(i, v, name) for i, v in zip(inner, value))
    elif origin is Literal:
        if value in arguments:
            return value
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise _Misfit(f"option {name} cannot be {value!r}")


def _parse_dataclass(cls: type, values: Any, name: str) -> Any:
    if not isinstance(values, dict):
        raise _Misfit(f"option {name} cannot be {values!r}")
    hints = get_type_hints(cls)
    values = current_options(values, list(hints))
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise _Misfit(f"unknown option {name}.{unknown[0]}")
    return cls(**{key: _parse(hints[key], value, f"{name}.{key}") for key, value in values.items()})
