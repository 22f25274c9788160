"""Ablations: networks that are trained with one thing changed and all else equal."""

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
from scripts.results.bench import Bench, InputSubset, MakeAvatar, Measured, mean_gaussians, one_frame_avatar
from scripts.results.options import ResultsOptions
from smpl_renderer.errors import InputError

METRICS = ("lpips",)
"""LPIPS metrics of ablations: VGG alone, to save time."""

ADDED_OPTIONS = (
    ("model", "feedback"),
    ("model", "graph", "patches"),
    ("loss", "lpips_crops"),
    *(("data", name) for name in ("target_input_views", "fit_bias", "color_gain", "single_image")),
)
"""Options that were added after the first records. At their defaults they are left out of settings."""

PATCHES = 256
"""Patches of the body in the ablation of the attention to them."""

Change = Callable[[TrainOptions], TrainOptions]
"""A change of the options of the full graph."""


def unchanged(options: TrainOptions) -> TrainOptions:
    return options


def graph_option(**values) -> Change:
    """A change of options of the graph."""
    return lambda options: replace(options, model=replace(options.model, graph=replace(options.model.graph, **values)))


def with_color_sampling(options: TrainOptions) -> TrainOptions:
    return replace(options, model=replace(options.model, color_sampling=True))


def with_feedback(options: TrainOptions) -> TrainOptions:
    model = replace(options.model, color_sampling=True, feedback=MODELS["demo"].feedback)
    return replace(options, model=model)


def with_patches(options: TrainOptions) -> TrainOptions:
    return graph_option(patches=PATCHES)(with_feedback(options))


def frame_stage(options: TrainOptions) -> TrainOptions:
    return replace(options, stage="frame")


@dataclass(frozen=True)
class Ablation:
    """A row of the group `ablations`: a network trained for it."""

    name: str
    title: str
    change: Change = unchanged
    make: MakeAvatar = make_avatar
    group: str = "ablations"

    def settings(self, bench: Bench) -> dict:
        training = self._training(bench)
        own = {"training": comparable(training), "input_subset": asdict(InputSubset())}
        return bench.target_settings(training.data.image_size) | own

    def measure(self, bench: Bench) -> Measured:
        training = self._training(bench)
        trainer = Trainer(training)
        trainer.run()
        steps, minutes = trainer.step, trainer.run_seconds() / 60
        del trainer  # frees its workers and CUDA graphs
        if bench.device.type == "cuda":
            gc.collect()
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
    """Side in pixels of the images of ablations, in training and measurement: that of the preset.

    Raises:
        InputError: If the preset is unknown.
    """
    return _preset(options).data.image_size


def base_options(bench: Bench) -> TrainOptions:
    """Options of the full graph: three layers, vertex head, no image colour sampling, no feedback, no attention to
    patches, no bias of fits, no gains of colours, no initial weights.

    Interrupted trainings resume. No training people are held out, because the test people measure the result.
    """
    options, preset = bench.options, _preset(bench.options)
    plain = {"target_input_views": None, "fit_bias": 0.0, "color_gain": 0.0, "single_image": 0.0}
    data = replace(preset.data, root=bench.train, **plain)
    if options.num_workers is not None:
        data = replace(data, num_workers=options.num_workers)
    steps = options.ablation_steps
    graph = replace(preset.model.graph, layers=3, head="vertex", intra=True, inter=True, patches=0)
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
    """Options that affect the result of a training, without paths, device, speed and intervals of outputs."""
    data = replace(options.data, root=Path(), num_workers=0)
    here = {"workspace": Path(), "resume": "auto", "device": "auto", "backend": "auto", "cuda_graphs": True, "keep": 1}
    intervals = {f"{name}_every": 1 for name in ("log", "image", "eval", "save")}
    own = json.loads(options_to_json(replace(options, data=data, **here, **intervals)))
    default = json.loads(options_to_json(TrainOptions()))
    for *parts, name in ADDED_OPTIONS:
        mine, usual = own, default
        for part in parts:
            mine, usual = mine[part], usual[part]
        if mine[name] == usual[name]:
            del mine[name]
    return own


def _preset(options: ResultsOptions) -> TrainOptions:
    if options.preset not in PRESETS:
        raise InputError(f"--preset {options.preset!r}: unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[options.preset][1]


ABLATIONS = (
    Ablation("graph", "full graph: L = 3, vertex head"),
    Ablation(
        "one-frame", "paper's baseline: one frame's Gaussians on the body, no graph", frame_stage, one_frame_avatar
    ),
    Ablation("no-intra", "without intra-node attention", graph_option(intra=False)),
    Ablation("no-inter", "without inter-node attention", graph_option(inter=False)),
    Ablation("layers-1", "L = 1", graph_option(layers=1)),
    Ablation("layers-6", "L = 6", graph_option(layers=6)),
    Ablation("second-look", "with image colour sampling", with_color_sampling),
    Ablation("feedback", "with image colour sampling and feedback", with_feedback),
    Ablation("patches", "with these and attention to patches", with_patches),
    Ablation("residual-head", "residual head", graph_option(head="residual")),
)
