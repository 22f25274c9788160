"""Earlier names of parameters, options, flags and log columns, and their present names.

Files of earlier versions are read under the present names and written under them. No other module contains an earlier
name.
"""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")

_PARAMETERS = (
    (r"^second_look\.weigh_own\.", "color_sampling.own_logit."),
    (r"^second_look\.weigh\.", "color_sampling.attention_mlp."),
    (r"^second_look\.correct\.", "color_sampling.correction_head."),
    (r"^second_look\.", "color_sampling."),
    (r"^(feedback\.corrections\.\d+)\.think\.", r"\1.mlp."),
    (r"^(feedback\.corrections\.\d+)\.decide\.", r"\1.to_update."),
    (r"^(feedback\.corrections\.\d+)\.remember\.", r"\1.to_context."),
)
"""Patterns of earlier parameter names and their replacements; the first match applies."""

OPTIONS = {
    "color_sampling": "second_look",
    "surface_distance": "tie",
    "lpips_crops": "lpips_pieces",
    "cuda_graphs": "record",
    "subjects": "persons",
}
"""Present field names of option classes and of `core.checkpoint.Training`, and their earlier names. Each occurs in one
class only."""

_COLUMNS = {"tie": "surface_distance"}
"""Earlier columns of `log.csv`, and the present ones."""

_PROTOCOL_KEYS = {"pictures": "images"}
"""Earlier keys of a subject's record in `metrics.json`, and the present ones."""

_FLAGS = {
    "--model.second-look": "--model.color-sampling",
    "--model.no-second-look": "--model.no-color-sampling",
    "--loss.tie": "--loss.surface-distance",
    "--loss.lpips-pieces": "--loss.lpips-crops",
    "--loss.no-lpips-pieces": "--loss.no-lpips-crops",
    "--record": "--cuda-graphs",
    "--no-record": "--no-cuda-graphs",
}
"""Earlier spellings of command-line flags, and the present ones. Accepted for one version."""


def current_parameter(name: str) -> str:
    """The present name of a parameter, given its name in a checkpoint of any version."""
    for pattern, replacement in _PARAMETERS:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def current_parameters(tensors: dict[str, Value]) -> dict[str, Value]:
    """Rename the parameters of a checkpoint of any version; the values stay the same."""
    return {current_parameter(name): value for name, value in tensors.items()}


def current_options(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Field values by present names.

    Args:
        values: Fields of one class as read from a file.
        names: Present field names of that class.
    """
    old = {OPTIONS[name]: name for name in names if name in OPTIONS}
    return {old.get(name, name): value for name, value in values.items()}


def current_column(name: str) -> str:
    """The present name of a column of `log.csv`, given its name in a log of any version."""
    return _COLUMNS.get(name, name)


def current_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    """`settings.protocol` of a `metrics.json` of any version, with present names."""
    subjects = protocol.get("subjects", {})
    renamed = {
        name: {_PROTOCOL_KEYS.get(key, key): value for key, value in subjects[name].items()} for name in subjects
    }
    return protocol | {"subjects": renamed}


def current_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments in present spelling, and one message for each earlier spelling among them."""
    current, messages = [], []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        renamed = _FLAGS.get(flag.replace("_", "-"))
        if renamed is not None:
            messages.append(f"{flag} is now {renamed}; the earlier spelling is accepted in this version only")
        current.append(argument if renamed is None else renamed + equals + value)
    return current, messages
