"""Networks that are trained to see what a part of the method is worth: one thing changed, all else equal."""

import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from core.inference.subject import make_avatar
from core.options import MODELS, PRESETS, TrainOptions
from core.training.trainer import Trainer
from core.utils.options_json import options_to_json
from scripts.results.bench import Bench, InputSubset, Make, Measured, bind_one_frame, mean_gaussians
from scripts.results.options import ResultsOptions
from smpl_renderer.errors import InputError

METRICS = ("lpips",)
"""Kinds of LPIPS that are measured; VGG alone, to save time."""

YOUNGER = (("model", "feedback"), ("loss", "lpips_crops"), ("data", "target_input_views"))
"""Options that records may be older than. By their defaults, a training is the one that it was without them."""

Change = Callable[[TrainOptions], TrainOptions]


def unchanged(options: TrainOptions) -> TrainOptions:
    return options


def graph_option(**values) -> Change:
    """A change of some of the graph's options."""
    return lambda options: replace(options, model=replace(options.model, graph=replace(options.model.graph, **values)))


def with_color_sampling(options: TrainOptions) -> TrainOptions:
    return replace(options, model=replace(options.model, color_sampling=True))


def with_feedback(options: TrainOptions) -> TrainOptions:
    model = replace(options.model, color_sampling=True, feedback=MODELS["demo"].feedback)
    return replace(options, model=model)


def frame_stage(options: TrainOptions) -> TrainOptions:
    return replace(options, stage="frame")


@dataclass(frozen=True)
class Ablation:
    """A row of the group `ablations`."""

    name: str
    title: str
    change: Change = unchanged
    make: Make = make_avatar
    group: str = "ablations"

    def settings(self, bench: Bench) -> dict:
        training = self._training(bench)
        own = {"training": comparable(training), "shown": asdict(InputSubset())}
        return bench.judged_by(training.data.image_size) | own

    def measure(self, bench: Bench) -> Measured:
        training = self._training(bench)
        trainer = Trainer(training)
        trainer.run()
        steps, minutes = trainer.step, trainer.run_seconds() / 60
        del trainer  # its workers and recordings go with it
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        session = bench.open(training.workspace / "model.safetensors")
        avatars = bench.avatars(session, InputSubset(), self.make)
        metrics = bench.measure_avatars(avatars, session, training.data.image_size, bench.metric_suite(METRICS))
        return Measured(
            metrics=metrics,
            gaussians=mean_gaussians(avatars),
            avatar_ms=bench.avatar_ms(session, InputSubset(), self.make),
            steps=steps,
            train_minutes=minutes,
        )

    def _training(self, bench: Bench) -> TrainOptions:
        training = self.change(base_options(bench))
        digest = hashlib.sha256(json.dumps([bench.data, comparable(training)]).encode()).hexdigest()[:8]
        return replace(training, workspace=bench.options.workspace / f"{self.name}-{digest}")


def ablation_size(options: ResultsOptions) -> int:
    """Pixels of the pictures that ablations are trained on and measured by: the preset's.

    Raises:
        InputError: If there is no such preset.
    """
    return _preset(options).data.image_size


def base_options(bench: Bench) -> TrainOptions:
    """The full graph: the preset with three layers, the vertex head, no second look and no feedback, from nothing, for
    some steps.

    A training that was interrupted goes on. Nobody is held out: the test people tell how good it is.
    """
    options, preset = bench.options, _preset(bench.options)
    data = replace(preset.data, root=bench.train)
    if options.num_workers is not None:
        data = replace(data, num_workers=options.num_workers)
    steps = options.ablation_steps
    graph = replace(preset.model.graph, layers=3, head="vertex", intra=True, inter=True)
    return replace(
        preset,
        data=data,
        model=replace(preset.model, graph=graph, color_sampling=False, feedback=0),
        stage="joint",
        init=None,
        resume="auto",
        device=options.device,
        backend=options.backend,
        seed=options.seed,
        steps=steps,
        max_minutes=None,
        validation=0,
        validation_root=None,
        save_every=max(1, steps // 3),
        image_every=steps,
        eval_every=steps,
        keep=1,
        checkpoint_dtype="float32",
    )


def comparable(options: TrainOptions) -> dict:
    """Options of a training, without those that say where and how fast it runs, and how often it tells of itself."""
    data = replace(options.data, root=Path(), num_workers=0)
    here = {"workspace": Path(), "resume": "auto", "device": "auto", "backend": "auto", "cuda_graphs": True, "keep": 1}
    intervals = {f"{name}_every": 1 for name in ("log", "image", "eval", "save")}
    own = json.loads(options_to_json(replace(options, data=data, **here, **intervals)))
    default = json.loads(options_to_json(TrainOptions()))
    for part, name in YOUNGER:
        if own[part][name] == default[part][name]:
            del own[part][name]
    return own


def _preset(options: ResultsOptions) -> TrainOptions:
    if options.preset not in PRESETS:
        raise InputError(f"--preset: no preset is called {options.preset!r}; choose among {', '.join(PRESETS)}")
    return PRESETS[options.preset][1]


ABLATIONS = (
    Ablation("graph", "full graph: L = 3, vertex head"),
    Ablation("one-frame", "paper's baseline: one frame's Gaussians on the body, no graph", frame_stage, bind_one_frame),
    Ablation("no-intra", "without intra-node attention", graph_option(intra=False)),
    Ablation("no-inter", "without inter-node attention", graph_option(inter=False)),
    Ablation("layers-1", "L = 1", graph_option(layers=1)),
    Ablation("layers-6", "L = 6", graph_option(layers=6)),
    Ablation("second-look", "with the second look", with_color_sampling),
    Ablation("feedback", "with the second look and feedback", with_feedback),
    Ablation("residual-head", "residual head", graph_option(head="residual")),
)
