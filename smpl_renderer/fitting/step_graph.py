"""Steps of a fit, replayed from a CUDA graph: each is about 900 small kernels, whose launches take most of it."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WARM_UP = 1
"""Steps that run before the capture, so that buffers of the optimiser and of libraries exist. They take as long as 20
of the others."""


class StepGraph:
    """A step without arguments on fixed tensors, captured after `WARM_UP` calls and replayed from then on.

    Every call takes one step. The first calls run on a stream of their own, as captures demand. Where a capture fails,
    steps run as they are.

    Args:
        step: Takes one step in place and returns its energy terms. Must not wait for the device, nor copy to it.
        device: Device of the step's tensors.
    """

    def __init__(self, step: Callable[[], dict[str, Tensor]], device: torch.device):
        self._step, self._calls, self._device = step, 0, device
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._terms: dict[str, Tensor] = {}

    def __call__(self) -> dict[str, Tensor]:
        with torch.cuda.device(self._device):
            return self._take_step()

    def _take_step(self) -> dict[str, Tensor]:
        self._calls += 1
        if self._calls <= WARM_UP:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                terms = self._step()
            torch.cuda.current_stream().wait_stream(self._stream)
            return terms
        if self._calls == WARM_UP + 1:
            self._capture()
        if self._graph is None:
            return self._step()
        self._graph.replay()
        return self._terms

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._terms = self._step()
        except RuntimeError as error:
            logger.warning("steps of the fit are not captured in a CUDA graph: %s", error)
            return
        self._graph = graph
