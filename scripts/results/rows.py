"""The rows of the results page: settings and measurement of each."""

import json
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

from core.checkpoint import read_trainings
from core.inference.baselines import baseline_colors, render_baselines
from core.inference.evaluation import OURS, RenderMethods
from core.inference.session import Session, session_settings
from core.types.frames import Frames
from scripts.results.ablations import ABLATIONS, ablation_size
from scripts.results.bench import Bench, InputSubset, Measured, mean_gaussians
from scripts.results.optimum import optimise
from scripts.results.records import current_settings
from smpl_renderer.errors import InputError


class Row(Protocol):
    """A row of the results page."""

    name: str
    group: str
    title: str

    def settings(self, bench: Bench) -> dict:
        """Settings that determine the measurement; a record with equal settings is current. Must be fast."""

    def measure(self, bench: Bench) -> Measured: ...


ALL_INPUTS = InputSubset()


def checkpoint_settings(bench: Bench, size: int, subset: InputSubset = ALL_INPUTS) -> dict:
    """Settings of rows of the checkpoint's avatars, measured by images of `size` pixels."""
    described = session_settings(bench.headline)
    own = {
        "checkpoint": described["checkpoint"]["sha256"],
        "training": current_settings(json.loads(bench.headline.metadata.get("training") or "{}")),
        "input": described["input"],
        "input_subset": asdict(subset),
    }
    if (factor := bench.headline.supersampling(size)) > 1:
        own["supersampling"] = factor  # left out otherwise, as in earlier records
    return bench.target_settings(size) | own


@dataclass(frozen=True)
class CheckpointRow:
    """Avatars of the checkpoint, made from a subset of the inputs and measured by all target images."""

    name: str
    group: str
    title: str
    subset: InputSubset = ALL_INPUTS
    like_ablations: bool = False
    """Measured by images of the size of the ablations."""
    is_refined: bool = False
    """Refined on its inputs."""

    def settings(self, bench: Bench) -> dict:
        own = {"refinement": asdict(self._session(bench).refiner.options)} if self.is_refined else {}
        return checkpoint_settings(bench, self._size(bench), self.subset) | own

    def measure(self, bench: Bench) -> Measured:
        session = self._session(bench)
        avatars, trainings = bench.avatars(session, self.subset), read_trainings(session.metadata)
        return Measured(
            metrics=bench.measure_avatars(avatars, session, self._size(bench), bench.metric_suite()),
            gaussians=mean_gaussians(avatars),
            avatar_ms=bench.avatar_ms(session, self.subset),
            steps=trainings[-1].steps,
            trainings=trainings if session.metadata.get("trainings") else None,
        )

    def _session(self, bench: Bench) -> Session:
        return bench.refined if self.is_refined else bench.headline

    def _size(self, bench: Bench) -> int:
        return ablation_size(bench.options) if self.like_ablations else bench.options.image_size


@dataclass(frozen=True)
class BaselineRow:
    """The posed body mesh in colours of the inputs, a baseline without a network."""

    name: str
    title: str
    baseline: str
    """Name of a baseline of `core.inference.baselines`."""
    group: str = "bounds"

    def settings(self, bench: Bench) -> dict:
        session = bench.headline
        own = {"input": session_settings(session)["input"], "input_subset": asdict(ALL_INPUTS)}
        return bench.target_settings(bench.options.image_size) | own

    def measure(self, bench: Bench) -> Measured:
        body, inputs = bench.headline.body, bench.inputs(bench.headline)

        @torch.no_grad()
        def renderer(index: int) -> RenderMethods:
            colors = {OURS: baseline_colors(inputs[index].unpack(), body)[self.baseline]}

            def render(target: Frames) -> dict:
                frames = [(target.body[i], target.cameras[i]) for i in range(len(target.images))]
                return {OURS: torch.stack([render_baselines(colors, body, *frame)[OURS] for frame in frames])}

            return render

        return Measured(bench.measure(renderer, bench.options.image_size, bench.metric_suite()))


@dataclass(frozen=True)
class OptimumRow:
    """Avatars of the checkpoint, optimised on the target images that measure them."""

    name: str
    title: str
    group: str = "bounds"

    def settings(self, bench: Bench) -> dict:
        options = bench.options
        own = {"people": options.optimum_people, "steps": options.optimum_steps, "seed": options.seed}
        return checkpoint_settings(bench, options.image_size) | own

    def measure(self, bench: Bench) -> Measured:
        options, session = bench.options, bench.headline
        avatars = bench.avatars(session, ALL_INPUTS)[: options.optimum_people]
        targets = bench.people.targets(options.image_size)
        how = {"steps": options.optimum_steps, "seed": options.seed}
        best = [optimise(avatar, session, target, **how) for avatar, target in zip(avatars, targets)]
        metrics = bench.measure_avatars(best, session, options.image_size, bench.metric_suite())
        return Measured(metrics, mean_gaussians(best), steps=options.optimum_steps)


ROWS: tuple[Row, ...] = (
    CheckpointRow("ours", "model", "ours"),
    CheckpointRow("refined", "model", "ours, refined on its inputs", is_refined=True),
    CheckpointRow("ours-256", "model", "ours, at the image size of the ablations", like_ablations=True),
    *(CheckpointRow(f"views-{n}", "inputs", f"{n} x 8", InputSubset(views=n)) for n in (1, 2)),
    CheckpointRow("single", "inputs", "1 x 1", InputSubset(views=1, frames=1)),
    CheckpointRow("refined-1", "inputs", "1 x 8, refined", InputSubset(views=1), is_refined=True),
    *(CheckpointRow(f"frames-{n}", "inputs", f"4 x {n}", InputSubset(frames=n)) for n in (1, 2, 4)),
    BaselineRow("mean-color", "posed body in the mean colour of the inputs", "mean_color"),
    BaselineRow("vertex-color", "posed body in vertex colours from the inputs", "vertex_color"),
    OptimumRow("optimum", "the same Gaussians, optimised on the target images of each subject"),
    *ABLATIONS,
)
GROUPS = ("model", "inputs", "bounds", "ablations")


def choose_rows(names: tuple[str, ...]) -> list[Row]:
    """Rows by their names or the names of their groups, in the order of `ROWS`; all rows if no name is given.

    Raises:
        InputError: If a name is unknown.
    """
    known = {row.name for row in ROWS} | set(GROUPS)
    for name in names:
        if name not in known:
            raise InputError(f"--rows {name!r}: no such row or group; groups are {', '.join(GROUPS)}, see --list")
    return [row for row in ROWS if not names or row.name in names or row.group in names]
