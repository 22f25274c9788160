"""Repeatable renderings of one size by one backend, to be timed."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from core.render import rasterize
from scripts.benchmarks.common import graph_replay, median_ms
from scripts.benchmarks.splat_scenes import SCENES, ring

logger = logging.getLogger(__name__)

VARIANTS = 3  # inputs used in turn, so that no call finds its own data in a cache
CAPTURABLE = ("triton",)  # backends that do not synchronise, so that a CUDA graph can capture them


@contextmanager
def use_binning(name: str) -> Iterator[None]:
    """Let backend `triton` use a binning (`core.render.binning`); an empty name changes nothing."""
    before = os.environ.get("HGG_BINNING")
    try:
        if name:
            os.environ["HGG_BINNING"] = name
        yield
    finally:
        if name:
            os.environ.pop("HGG_BINNING", None)
            os.environ.update({} if before is None else {"HGG_BINNING": before})


class RenderJob:
    """Repeatable rendering: call i uses inputs i modulo `VARIANTS`.

    Args:
        backend: Rasterizer; `triton:cells` and `triton:pairs` set its binning.
        scene: Key of `SCENES`.
    """

    def __init__(self, backend: str, count: int, views: int, size: int, device: torch.device, scene: str = "body"):
        self.backend, _, self.binning = backend.partition(":")
        self.size, self.device = size, device
        self.cameras = ring(views, size).to(device)
        make = SCENES[scene]
        self.scenes = [make(count, seed).map(lambda x: x.to(device).requires_grad_()) for seed in range(VARIANTS)]
        self.target = torch.rand(views, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def forward(self, i: int) -> Tensor:
        cameras, scene = self.cameras, self.scenes[i % VARIANTS]
        with use_binning(self.binning):
            return rasterize(scene, cameras.viewmats, cameras.Ks, self.size, self.size, backend=self.backend).colors

    @torch.no_grad()
    def forward_without_gradients(self, i: int) -> Tensor:
        return self.forward(i)

    def forward_backward(self, i: int) -> tuple[Tensor, ...]:
        """Gradients of a mean squared error."""
        loss = (self.forward(i) - self.target).square().mean()
        return torch.autograd.grad(loss, list(vars(self.scenes[i % VARIANTS]).values()))

    def graph_ms(self, repeats: int) -> float | None:
        """Median of both passes in CUDA graphs, one per scene; None if the backend cannot be captured."""
        if self.device.type != "cuda" or self.backend not in CAPTURABLE:
            return None
        try:
            graphs = [graph_replay(self.forward_backward, i) for i in range(VARIANTS)]
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("backend %s cannot be captured in a CUDA graph: %s", self.backend, error)
            return None
        return median_ms(lambda i: graphs[i % VARIANTS](i), repeats, self.device)
