"""Fit bodies to what cameras saw of one person."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.energy import Energy, Weights, spread_vertices
from smpl_renderer.fitting.flips import likely_facing, swap_sides, try_flips
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.options import FitOptions
from smpl_renderer.fitting.projection import pixel_sizes
from smpl_renderer.fitting.result import FitResult
from smpl_renderer.fitting.solver import minimise
from smpl_renderer.fitting.start import start_variables
from smpl_renderer.fitting.targets import Targets, prepare_targets
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.types import BodyParams

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the steps done, the steps in all, and the current value of each energy term."""

COARSE, FINE = 600, 1500
"""Vertices that stand for the surface in the first and in the last stage."""
STEPS = {"pose": 60, "sides": 40, "flips": 30, "coarse": 150, "fine": 120}
"""Steps of the stages."""


def fit_bodies(
    observations: Observations,
    body: BodyModel,
    options: FitOptions = FitOptions(),
    on_step: OnStep | None = None,
    initial: BodyParams | None = None,
    weights: Weights = Weights(),
) -> FitResult:
    """Fit one shape and scale, and a pose per frame.

    Args:
        observations: What cameras saw; everything runs on their device.
        body: With SMPL's joints, on that device.
        options: How to fit.
        on_step: Called after each step.
        initial: Bodies to start from, batch axis F, instead of the landmarks.
        weights: Of the energy.
    Raises:
        ValueError: If shapes do not match, or if there is nothing to fit to.
    """
    return _Fit(observations, body, options, on_step, weights).run(initial)


class _Fit:
    def __init__(self, observations, body, options, on_step, weights):
        self.observations, self.body, self.options, self.weights = observations, body, options, weights
        self.targets = prepare_targets(observations)
        self.coarse, self.fine = spread_vertices(body, COARSE), spread_vertices(body, FINE)
        self.on_step = on_step
        self.done, self.total = 0, sum(STEPS.values())

    def run(self, initial: BodyParams | None) -> FitResult:
        x = start_variables(self.observations, self.targets, self.body, self.options)
        x = self._minimise(x, "pose", self._energy(x), 1.5, silhouettes=False)
        x = self._correct_sides(x)
        if self.options.flips and self.observations.num_cameras == 1:
            x = self._correct_flips(x)
        for stage, ids, rate in (("coarse", self.coarse, 1.0), ("fine", self.fine, 0.5)):
            energy = self._energy(x, ids)
            energy.update_looseness(x)
            self.part_weights = energy.part_weights
            x = self._minimise(x, stage, energy, rate)
        frames = self.observations.num_frames
        return FitResult(x.bodies().to_params(), x.unit_up(), x.floor.expand(frames), (), ())

    @property
    def _names(self) -> tuple[str, ...]:
        return ("root", "pose", "transl", "betas", "up", "floor")

    def _energy(self, x: Variables, ids: Tensor | None = None, targets: Targets | None = None, frames=None) -> Energy:
        ids = self.coarse if ids is None else ids
        targets = self.targets if targets is None else targets
        sizes = pixel_sizes(x.transl, targets.Ks, targets.viewmats)
        times = self.observations.times if frames is None else None
        return Energy(targets, self.body, ids, self.weights, sizes, times)

    def _minimise(self, x: Variables, stage: str, energy: Energy, rate: float, names=None, **kwargs) -> Variables:
        return minimise(x, energy, STEPS[stage], names or self._names, rate=rate, report=self._report, **kwargs)

    def _report(self, terms: dict[str, Tensor]) -> None:
        self.done += 1
        if self.on_step is not None:
            self.on_step(self.done, self.total, {name: float(value.detach().mean()) for name, value in terms.items()})

    def _correct_sides(self, x: Variables) -> Variables:
        """Exchange left and right where the landmarks take the person's back for the front."""
        everywhere = torch.ones_like(self.targets.seen)
        swapped = swap_sides(self.observations, everywhere, self.targets.table)
        swapped_targets = prepare_targets(swapped)
        common = self._common(x)
        y = start_variables(swapped, swapped_targets, self.body, self.options)
        y = replace(y, betas=x.betas, up=x.up, floor=x.floor)
        energies = []
        for v, targets in ((x, self.targets), (y, swapped_targets)):
            energy = self._energy(v, targets=targets)
            energy.common, energy.fixed_common = common, True
            v = self._minimise(v, "sides", energy, 1.0, ("root", "pose", "transl"), silhouettes=False)
            energies.append((v, sum(energy(v, silhouettes=False).values()).detach()))
        (x, before), (y, after) = energies
        forward = torch.stack([v.bodies().rotations[:, 0, :, 2] for v in (x, y)])
        better = likely_facing(torch.stack([before, after]), forward, x.unit_up())
        self.info = (before, after, better)
        if better.any():
            where = better[:, None] & everywhere
            self.observations = swap_sides(self.observations, where, self.targets.table)
            self.targets = prepare_targets(self.observations)
            b = better[:, None]
            x = replace(
                x,
                base=torch.where(b[..., None], y.base, x.base),
                root=torch.where(b, y.root, x.root),
                pose=torch.where(b[..., None], y.pose, x.pose),
                transl=torch.where(b, y.transl, x.transl),
            )
        return x

    def _common(self, x):
        energy = self._energy(x)
        energy.update_common(x)
        return energy.common

    def _correct_flips(self, x: Variables) -> Variables:
        common = self._common(x)

        def refine(v: Variables, index: Tensor):
            energy = self._energy(v, targets=self.targets.frames(index), frames=index)
            energy.common, energy.fixed_common = common, True
            v = self._minimise(v, "flips", energy, 1.0, ("root", "pose", "transl"), silhouettes=False)
            return v, sum(energy(v, silhouettes=False).values()).detach()

        x, self.changes = try_flips(x, self.body, self.observations.viewmats[0], refine, margin=1.0)
        return x
