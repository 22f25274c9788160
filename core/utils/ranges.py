"""Admissible ranges of numeric options, declared in their annotations and checked in one place.

image_size: ImageSize = 512                      # a field of an options class, or a parameter of a script's `main`
check_ranges(options)                            # InputError: --data.image-size must be at least 1, got 0
tyro.cli(checked(main))                          # the same for the arguments of a function
"""

import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from smpl_renderer.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers, with or without its ends."""

    low: float
    high: float = math.inf
    includes_low: bool = True
    includes_high: bool = True

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.includes_low else value > self.low
        return above and (value <= self.high if self.includes_high else value < self.high)

    def describe(self, value: float) -> str:
        """The end of the interval that excludes a value, as text."""
        if value >= self.high:
            return f"{'at most' if self.includes_high else 'below'} {_format(self.high)}"
        return f"{'at least' if self.includes_low else 'above'} {_format(self.low)}"


MAX_COUNT = 2**31 - 1
Count = Annotated[int, Range(1, MAX_COUNT)]
CountOrZero = Annotated[int, Range(0, MAX_COUNT)]
MAX_IMAGE_SIZE = 2**14
ImageSize = Annotated[int, Range(1, MAX_IMAGE_SIZE)]
"""Pixels of an image's side."""
Workers = Annotated[int, Range(-1, 1024)]
"""Number of processes; 0 for none besides this one, -1 for a number that suits the machine."""
Percentage = Annotated[int, Range(1, 100)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, includes_high=False)]
"""A factor in [0, 1), as of exponential averages and of dropout."""
Positive = Annotated[float, Range(0, includes_low=False)]
PositiveOrZero = Annotated[float, Range(0)]


def check_ranges(options: Any, prefix: str = "") -> None:
    """Check the fields of a dataclass of options, nested ones included.

    A class may also have a method `check_combination(prefix)` for what depends on more than one field.

    Args:
        prefix: Text before the field names on the command line, such as `data.`.
    Raises:
        InputError: If a number is out of its range, or not finite; the message names the flag.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{prefix}{name}.")
        else:
            _check_value(hint, value, f"{prefix}{name}")
    if hasattr(options, "check_combination"):
        options.check_combination(prefix)


def checked(main: Function) -> Function:
    """Wrap a script's `main`: its arguments are checked against the ranges in its annotations before it runs."""
    signature, hints = inspect.signature(main), get_type_hints(main, include_extras=True)

    @functools.wraps(main)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if dataclasses.is_dataclass(value):
                check_ranges(value)
            else:
                _check_value(hints.get(name), value, name)
        return main(*args, **kwargs)

    return call


def flag(name: str) -> str:
    """The command-line spelling of an option: `data.image_size` is `--data.image-size`."""
    return f"--{name.replace('_', '-')}"


def _format(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_value(hint: Any, value: Any, name: str) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if value is None:
        return
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not type(None)]
        _check_value(members[0] if len(members) == 1 else None, value, name)  # others have no ranges: names of choices
    elif origin is tuple:
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        for item_hint, item in zip(inner, value):
            _check_value(item_hint, item, name)
    elif origin is Annotated:
        for allowed in hint.__metadata__:
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{flag(name)} must be a finite number, got {value}")
            if isinstance(allowed, Range) and value not in allowed:
                raise InputError(f"{flag(name)} must be {allowed.describe(value)}, got {_format(value)}")
        _check_value(arguments[0], value, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{flag(name)} must be a finite number, got {value}")
