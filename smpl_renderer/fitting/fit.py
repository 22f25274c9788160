"""Fit bodies to what cameras saw of one person."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.energy import Energy
from smpl_renderer.fitting.flips import likely_facing, sides_by_camera, swap_sides, try_flips
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.options import FitOptions
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.quality import fit_quality
from smpl_renderer.fitting.result import FitResult
from smpl_renderer.fitting.solver import minimise
from smpl_renderer.fitting.start import start_from_bodies, start_from_landmarks, turned_starts
from smpl_renderer.fitting.surface import spread_vertices
from smpl_renderer.fitting.targets import Targets, prepare_targets
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.fitting.weights import Weights
from smpl_renderer.types import BodyParams

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the steps done, the steps in all, and the current value of each energy term."""

COARSE, FINE = 600, 1500
"""Vertices that stand for the surface in the first and in the last stage."""
STEPS = {"lift": 60, "pose": 60, "sides": 40, "flips": 30, "coarse": 150, "fine": 120}
"""Steps of the stages."""
POSE_ONLY = ("root", "pose", "transl")


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
        observations: Landmarks and masks, frames in the order of time. Everything runs on their device.
        body: With SMPL's joints; moved to that device.
        options: Options of the fit.
        on_step: Called after each step.
        initial: Bodies to start from, batch axis F, instead of the landmarks.
        weights: Factors and scales of the energy terms.
    Raises:
        ValueError: If shapes do not match, or if there is nothing to fit to.
    """
    return _Fit(observations, body.to(observations.Ks.device), options, on_step, weights).run(initial)


class _Fit:
    """The stages of one fit."""

    def __init__(
        self,
        observations: Observations,
        body: BodyModel,
        options: FitOptions,
        on_step: OnStep | None,
        weights: Weights,
    ):
        self.observations, self.body, self.options, self.on_step = observations, body, options, on_step
        self.targets = prepare_targets(observations)
        self.one_camera = observations.num_cameras == 1
        self.weights = replace(
            weights, common=weights.common * options.same_pose, smooth=weights.smooth * options.smooth
        )
        if options.fit_hands:
            self.weights = replace(self.weights, hands=0.1 * weights.hands)
        self.coarse, self.fine = spread_vertices(body, COARSE), spread_vertices(body, FINE)
        self.initial: Pose | None = None
        self.done = self.total = 0

    def run(self, initial: BodyParams | None) -> FitResult:
        if not self.one_camera:
            self.weights = self.weights.of_rig(refined=initial is not None)
        stages = ["coarse", "fine"]
        if initial is None:
            x, lifted = start_from_landmarks(self.observations, self.targets, self.body, self.options)
            lift = self.one_camera and not lifted.any()
            flips = self.options.flips and self.one_camera
            stages += ["pose", *["lift"] * lift, *["sides"] * 2 * self.one_camera, *["flips"] * flips]
            self.total = sum(self._steps(stage) for stage in stages)
            if lift:
                x = self._lift(x)
            x = self._minimise("pose", x, self._energy(x), 1.5, silhouettes=False)
            x = self._choose_sides(x) if self.one_camera else self._choose_sides_by_camera(x)
            if flips:
                x = self._choose_flips(x)
        else:
            self.total = sum(self._steps(stage) for stage in stages)
            x = self._start_from(initial)
            self.initial = x.bodies()
        for stage, vertex_ids, rate in (("coarse", self.coarse, 1.0), ("fine", self.fine, 0.5)):
            energy = self._energy(x, vertex_ids)
            if stage == "fine":
                energy.weights = self.weights.fine()
            energy.update_trust(x)
            x = self._minimise(stage, x, energy, rate)
        return self._result(x)

    def _steps(self, stage: str) -> int:
        return max(1, round(STEPS[stage] * self.options.steps))

    @property
    def _names(self) -> tuple[str, ...]:
        """Variables that are estimated."""
        options = self.options
        names = [*POSE_ONLY, "floor"]
        if options.fit_shape:
            names.append("betas")
        if self.observations.up is None:
            names.append("up")
        if options.height is not None or (options.scale is None and not self.one_camera):
            names.append("log_scale")
        return tuple(names)

    def _energy(
        self, x: Variables, vertex_ids: Int[Tensor, " N"] | None = None, targets: Targets | None = None
    ) -> Energy:
        own = targets is None
        return Energy(
            self.targets if own else targets,
            self.body,
            self.coarse if vertex_ids is None else vertex_ids,
            self.weights,
            x.bodies(),
            # Targets of alternatives repeat frames.
            times=self.observations.times if own else None,
            height=self.options.height,
            initial=self.initial if own else None,
            free_gravity=self.observations.up is None,
        )

    def _minimise(
        self,
        stage: str,
        x: Variables,
        energy: Energy,
        rate: float,
        silhouettes: bool = True,
        alternatives: bool = False,
    ) -> Variables:
        """Take the steps of a stage; `alternatives` repeat frames, and only poses differ between them."""
        return minimise(
            x,
            energy,
            self._steps(stage),
            POSE_ONLY if alternatives else self._names,
            rate=rate,
            silhouettes=silhouettes,
            common=self.weights.common > 0 and self.observations.num_frames > 1 and not alternatives,
            report=self._report,
            cuda_graphs=self.options.cuda_graphs,
        )

    def _report(self, terms: dict[str, Tensor]) -> None:
        self.done += 1
        if self.on_step is not None:
            means = torch.stack(list(terms.values())).detach().mean(1).tolist()  # waits for the device once
            self.on_step(self.done, self.total, dict(zip(terms, means)))

    def _common(self, x: Variables) -> Float[Tensor, "23 3 3"] | None:
        if self.observations.num_frames < 2 or not self.weights.common:
            return None
        energy = self._energy(x)
        energy.update_common(x)
        return energy.common

    def _refine(
        self, stage: str, x: Variables, targets: Targets, common: Tensor | None
    ) -> tuple[Variables, Float[Tensor, " N"]]:
        """Refine alternatives against the landmarks, and return the energy of each."""
        energy = self._energy(x, targets=targets)
        energy.common = common
        x = self._minimise(stage, x, energy, 1.0, silhouettes=False, alternatives=True)
        return x, energy.total(x, silhouettes=False)

    def _start_from(self, initial: BodyParams) -> Variables:
        bodies = Pose.from_params(initial.to(self.observations.Ks.device))
        if self.options.scale is not None:
            bodies = replace(bodies, scale=torch.full_like(bodies.scale, self.options.scale))
        return start_from_bodies(bodies, self.observations, PointModel(self.body, self.coarse), self.options)

    def _lift(self, x: Variables) -> Variables:
        """Choose the heading of each frame where landmarks have no depth."""
        frames = torch.arange(self.observations.num_frames, device=x.transl.device)
        starts = turned_starts(x, self.observations, self.targets, self.body, self.options)
        together = join(starts)
        refined, energies = self._refine("lift", together, self.targets.frames(frames.repeat(len(starts))), None)
        best = energies.unflatten(0, (len(starts), -1)).argmin(0)
        return refined.frames(best * len(frames) + frames)

    def _choose_sides(self, x: Variables) -> Variables:
        """Exchange left and right landmarks where they take the person's back for the front."""
        everywhere = torch.ones_like(self.targets.seen)
        swapped = swap_sides(self.observations, everywhere, self.targets.table)
        targets = prepare_targets(swapped, self.targets.silhouettes)
        other, lifted = start_from_landmarks(swapped, targets, self.body, self.options)
        if not lifted.any():  # nothing but the depth distinguishes the two at this point
            other = self._half_turn(x, targets)
        other = replace(other, betas=x.betas, up=x.up, floor=x.floor)
        common = self._common(x)
        x, before = self._refine("sides", x, self.targets, common)
        other, after = self._refine("sides", other, targets, common)
        forward = torch.stack([v.bodies().rotations[:, 0, :, 2] for v in (x, other)])
        second = likely_facing(torch.stack([before, after]), forward, x.unit_up())
        return self._take(x, other, swapped, second[:, None] & everywhere)

    def _half_turn(self, x: Variables, targets: Targets) -> Variables:
        starts = turned_starts(x, self.observations, targets, self.body, self.options)
        return starts[len(starts) // 2]

    def _choose_sides_by_camera(self, x: Variables) -> Variables:
        """Exchange left and right landmarks of cameras that contradict the others."""
        where = sides_by_camera(x, self._energy(x))
        if not where.any():
            return x
        swapped = swap_sides(self.observations, where, self.targets.table)
        self.observations, self.targets = swapped, prepare_targets(swapped, self.targets.silhouettes)
        start, _ = start_from_landmarks(swapped, self.targets, self.body, self.options)
        start = replace(start, betas=x.betas, log_scale=x.log_scale)
        return self._minimise("pose", start, self._energy(start), 1.5, silhouettes=False)

    def _take(self, x: Variables, other: Variables, swapped: Observations, where: Bool[Tensor, "F C"]) -> Variables:
        """Continue with the other bodies and the swapped landmarks in some frames."""
        if not where.any():
            return x
        self.observations = swap_sides(self.observations, where, self.targets.table)
        self.targets = prepare_targets(self.observations, self.targets.silhouettes)
        frames = torch.arange(len(where), device=where.device)
        return join([x, other]).frames(frames + len(frames) * where.any(1))

    def _choose_flips(self, x: Variables) -> Variables:
        common = self._common(x)

        def refine(candidates: Variables, index: Tensor) -> tuple[Variables, Tensor]:
            return self._refine("flips", candidates, self.targets.frames(index), common)

        return try_flips(x, self.body, self.observations.viewmats[0], refine)

    def _result(self, x: Variables) -> FitResult:
        params = x.bodies().to_params()
        quality, warnings = fit_quality(params, self.body, self.observations, self.targets)
        frames = self.observations.num_frames
        return FitResult(params, x.unit_up(), x.floor.expand(frames), quality, warnings)


def join(items: list[Variables]) -> Variables:
    """Frames of several variables one after another; shape, scale and a shared gravity are the first one's."""
    first = items[0]
    fields = {name: torch.cat([getattr(item, name) for item in items]) for name in ("base", "root", "pose", "transl")}
    if len(first.floor) > 1:
        fields |= {name: torch.cat([getattr(item, name) for item in items]) for name in ("up", "floor")}
    return replace(first, **fields)
