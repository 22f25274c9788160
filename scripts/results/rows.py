"""The rows of the table. Each knows the settings that it is measured with, and how."""

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
    """What can be measured."""

    name: str
    group: str
    title: str

    def settings(self, bench: Bench) -> dict:
        """What must be equal for a record to stand. Opens nothing that takes time."""

    def measure(self, bench: Bench) -> Measured: ...


EVERYTHING = InputSubset()


def checkpoint_settings(bench: Bench, size: int, shown: InputSubset = EVERYTHING) -> dict:
    """What rows of the checkpoint's avatars depend on."""
    described = session_settings(bench.headline)
    own = {
        "checkpoint": described["checkpoint"]["sha256"],
        "training": current_settings(json.loads(bench.headline.metadata.get("training") or "{}")),
        "input": described["input"],
        "shown": asdict(shown),
    }
    if (times := bench.headline.supersampling(size)) > 1:
        own["enlargement"] = times  # named only there: drawings at their own size are what they were
    return bench.judged_by(size) | own


@dataclass(frozen=True)
class CheckpointRow:
    """Avatars by the checkpoint, from some of the views and frames; measured by all pictures, whatever is shown."""

    name: str
    group: str
    title: str
    shown: InputSubset = EVERYTHING
    like_ablations: bool = False
    """Measured by pictures of their size, to stand beside them."""
    is_refined: bool = False
    """On what the network is shown."""

    def settings(self, bench: Bench) -> dict:
        own = {"refinement": asdict(self._session(bench).refiner.options)} if self.is_refined else {}
        return checkpoint_settings(bench, self._size(bench), self.shown) | own

    def measure(self, bench: Bench) -> Measured:
        session = self._session(bench)
        avatars, trainings = bench.avatars(session, self.shown), read_trainings(session.metadata)
        return Measured(
            metrics=bench.measure_avatars(avatars, session, self._size(bench), bench.metric_suite()),
            gaussians=mean_gaussians(avatars),
            avatar_ms=bench.avatar_ms(session, self.shown),
            steps=trainings[-1].steps,
            trainings=trainings if session.metadata.get("trainings") else None,
        )

    def _session(self, bench: Bench) -> Session:
        return bench.refined if self.is_refined else bench.headline

    def _size(self, bench: Bench) -> int:
        return ablation_size(bench.options) if self.like_ablations else bench.options.image_size


@dataclass(frozen=True)
class PaintedRow:
    """The posed body, painted: what the fit and the pictures give without a network."""

    name: str
    title: str
    paint: str
    """One of the baselines of `core.inference.baselines`."""
    group: str = "bounds"

    def settings(self, bench: Bench) -> dict:
        session = bench.headline
        own = {"input": session_settings(session)["input"], "shown": asdict(EVERYTHING)}
        return bench.judged_by(bench.options.image_size) | own

    def measure(self, bench: Bench) -> Measured:
        body, inputs = bench.headline.body, bench.inputs(bench.headline)

        @torch.no_grad()
        def draw_person(index: int) -> RenderMethods:
            colors = {OURS: baseline_colors(inputs[index].unpack(), body)[self.paint]}

            def draw(target: Frames) -> dict:
                moments = [(target.body[i], target.cameras[i]) for i in range(len(target.images))]
                return {OURS: torch.stack([render_baselines(colors, body, *moment)[OURS] for moment in moments])}

            return draw

        return Measured(bench.measure(draw_person, bench.options.image_size, bench.metric_suite()))


@dataclass(frozen=True)
class OptimumRow:
    """The checkpoint's avatars, each optimised on the very pictures that it is measured by."""

    name: str
    title: str
    group: str = "bounds"

    def settings(self, bench: Bench) -> dict:
        options = bench.options
        own = {"people": options.optimum_people, "steps": options.optimum_steps, "seed": options.seed}
        return checkpoint_settings(bench, options.image_size) | own

    def measure(self, bench: Bench) -> Measured:
        options, session = bench.options, bench.headline
        avatars = bench.avatars(session, EVERYTHING)[: options.optimum_people]
        targets = bench.people.targets(options.image_size)
        how = {"steps": options.optimum_steps, "seed": options.seed}
        best = [optimise(avatar, session, target, **how) for avatar, target in zip(avatars, targets)]
        metrics = bench.measure_avatars(best, session, options.image_size, bench.metric_suite())
        return Measured(metrics, mean_gaussians(best), steps=options.optimum_steps)


ROWS: tuple[Row, ...] = (
    CheckpointRow("ours", "model", "ours"),
    CheckpointRow("refined", "model", "ours, refined on its inputs", is_refined=True),
    CheckpointRow("ours-256", "model", "ours, measured as the ablations", like_ablations=True),
    *(CheckpointRow(f"views-{n}", "inputs", f"{n} x 8", InputSubset(views=n)) for n in (1, 2)),
    CheckpointRow("refined-1", "inputs", "1 x 8, refined", InputSubset(views=1), is_refined=True),
    *(CheckpointRow(f"frames-{n}", "inputs", f"4 x {n}", InputSubset(frames=n)) for n in (1, 2, 4)),
    PaintedRow("mean-color", "mean colour of the inputs painted on the body", "mean_color"),
    PaintedRow("vertex-color", "each vertex painted with the pixels that see it", "vertex_color"),
    OptimumRow("optimum", "the same Gaussians optimised per person on the target pictures"),
    *ABLATIONS,
)
GROUPS = ("model", "inputs", "bounds", "ablations")


def choose_rows(names: tuple[str, ...]) -> list[Row]:
    """Rows by their names and by those of their groups, in the order of the table; all for none.

    Raises:
        InputError: If a name is unknown.
    """
    known = {row.name for row in ROWS} | set(GROUPS)
    for name in names:
        if name not in known:
            raise InputError(f"--rows: no row or group is called {name!r}; groups are {', '.join(GROUPS)}, see --list")
    return [row for row in ROWS if not names or row.name in names or row.group in names]
