"""Base class of frozen dataclasses whose fields are tensors with common leading batch axes."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

Self = TypeVar("Self", bound="TensorStructure")  # `typing.Self` needs Python 3.11


class TensorStructure:
    """A frozen dataclass of tensors, nested structures, and other values.

    Subclasses are decorated with `@dataclass(frozen=True)`. Fields that hold None, strings or numbers pass unchanged
    through all methods. For transfer between processes, fields may hold NumPy arrays, to which `map` applies too.
    """

    def map(self: Self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Apply `fn` to all tensors, including those of nested structures."""
        return replace(self, **{f.name: _apply(getattr(self, f.name), fn) for f in fields(self)})

    def to(self: Self, *args, **kwargs) -> Self:
        """Apply `Tensor.to` with these arguments to all tensors."""
        return self.map(lambda x: x.to(*args, **kwargs))

    def detach(self: Self) -> Self:
        """Detach all tensors from the autograd graph."""
        return self.map(Tensor.detach)

    def __getitem__(self: Self, index) -> Self:
        """Index the batch axes of all tensors."""
        return self.map(lambda x: x[index])


def _apply(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        return fn(value)
    return value.map(fn) if isinstance(value, TensorStructure) else value
