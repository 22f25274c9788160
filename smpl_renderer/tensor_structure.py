"""Base class of the frozen dataclasses whose fields are tensors that share their leading batch axes."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

Self = TypeVar("Self", bound="TensorStructure")  # `typing.Self` needs Python 3.11


class TensorStructure:
    """A frozen dataclass of tensors, of other structures, and of values that are left as they are.

    Subclasses are decorated with `@dataclass(frozen=True)`. Fields that hold None, strings or numbers pass through every
    method unchanged. Between processes, NumPy arrays may stand in for tensors; `map` converts them back.
    """

    def map(self: Self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Apply `fn` to every tensor, also to those of nested structures."""
        return replace(self, **{f.name: _apply(getattr(self, f.name), fn) for f in fields(self)})

    def to(self: Self, *args, **kwargs) -> Self:
        """Apply `Tensor.to` with these arguments to every tensor."""
        return self.map(lambda x: x.to(*args, **kwargs))

    def detach(self: Self) -> Self:
        """The same values without gradients."""
        return self.map(Tensor.detach)

    def __getitem__(self: Self, index) -> Self:
        """Index the batch axes of every tensor."""
        return self.map(lambda x: x[index])


def _apply(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        return fn(value)
    return value.map(fn) if isinstance(value, TensorStructure) else value
