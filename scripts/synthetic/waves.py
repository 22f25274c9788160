"""Smooth random functions of space, for unevenness, folds, strands and irregular patterns."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def constant(values: tuple, like: Tensor) -> Tensor:
    """A constant tensor with the dtype and device of `like`.

    Cached, because each copy to a GPU waits for all work queued there.
    """
    return _on_device(values, like.dtype, like.device)


@functools.lru_cache(maxsize=2048)
def _on_device(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


@dataclass(frozen=True)
class Waves:
    """A sum of plane waves with a mean near zero and a standard deviation near one."""

    frequencies: tuple[tuple[float, float, float], ...]
    """Radians per metre."""
    phases: tuple[float, ...]

    def __call__(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        frequencies = constant(self.frequencies, points)
        phases = constant(self.phases, points)
        return torch.sin(points @ frequencies.T + phases).sum(-1) * (2 / len(self.phases)) ** 0.5

    def on_array(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        """The same function of a NumPy array."""
        return self(torch.from_numpy(points)).numpy()


def sample_waves(
    rng: np.random.Generator, size: float, stretch: tuple[float, float, float] = (1.0, 1.0, 1.0), count: int = 10
) -> Waves:
    """Draw waves of wavelengths around `size` metres, multiplied by `stretch` along each axis."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    frequencies = 2 * np.pi * directions / (size * rng.uniform(0.7, 1.6, count))[:, None] / np.asarray(stretch)
    return Waves(tuple(map(tuple, frequencies.tolist())), tuple(rng.uniform(0, 2 * np.pi, count).tolist()))
