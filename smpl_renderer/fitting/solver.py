"""Minimisation of the energy: Adam in stages, with a learning rate that falls along a cosine in each."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from smpl_renderer.fitting.energy import Energy
from smpl_renderer.fitting.step_graph import StepGraph
from smpl_renderer.fitting.variables import Variables

RATES = {
    "root": 0.02,
    "pose": 0.02,
    "transl": 0.01,
    "betas": 0.04,
    "log_scale": 0.005,
    "up": 0.01,
    "floor": 0.01,
}
"""Learning rates of Adam, about the largest step in radians, metres, or standard deviations of shape."""
COMMON_EVERY = 10
"""Steps between updates of the pose that all frames share."""


def minimise(
    x: Variables,
    energy: Energy,
    steps: int,
    names: tuple[str, ...],
    *,
    rate: float = 1.0,
    silhouettes: bool = True,
    common: bool = False,
    report: Callable[[dict[str, Tensor]], None] | None = None,
    cuda_graphs: bool = False,
) -> Variables:
    """Take `steps` steps of Adam in the variables `names`.

    Args:
        x: Initial variables.
        energy: Energy of the same frames.
        rate: Factor on all learning rates.
        silhouettes: Let the terms of the masks count.
        common: Update the pose that all frames share.
        report: Called after each step with the terms.
        cuda_graphs: Replay steps from a CUDA graph, on a GPU.
    """
    x = x.leaves(names)
    cuda_graphs = cuda_graphs and x.transl.is_cuda
    peaks = [rate * RATES[name] for name in names]
    # A graph reads learning rates from the device's memory.
    rates = [torch.tensor(peak, device=x.transl.device) for peak in peaks] if cuda_graphs else peaks
    groups = [{"params": [getattr(x, name)], "lr": lr} for name, lr in zip(names, rates)]
    # One kernel for all parameters.
    adam = torch.optim.Adam(groups, betas=(0.9, 0.98), capturable=cuda_graphs, fused=x.transl.is_cuda)

    def take_step() -> dict[str, Tensor]:
        adam.zero_grad(set_to_none=True)
        terms = energy(x, silhouettes)
        sum(terms.values()).mean().backward()
        adam.step()
        return terms

    run = StepGraph(take_step, x.transl.device) if cuda_graphs else take_step
    for step in range(steps):
        if common and step % COMMON_EVERY == 0:
            energy.update_common(x)
        factor = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, peak in zip(adam.param_groups, peaks):
            if cuda_graphs:
                group["lr"].fill_(factor * peak)
            else:
                group["lr"] = factor * peak
        terms = run()
        if report is not None:
            report(terms)
    return x.detach().rebased()
