"""Whole runs on the CPU: trained parts of each stage, exact resumption, skipped steps, held-out subjects."""

import logging
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from core.checkpoint import Training, load_checkpoint, read_metadata, read_trainings, save_checkpoint, times_file
from core.training import setup, trainer
from core.training.logs import read_rows
from core.training.step import InputSubset, TrainingStep
from core.training.trainer import Trainer
from core.types.frames import Sample
from smpl_renderer.connectivity import build_connectivity, save_connectivity
from smpl_renderer.errors import InputError


def snapshot(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}


def changed(run: Trainer, before: dict[str, torch.Tensor]) -> set[str]:
    """Top-level parts of the network whose parameters have changed."""
    parameters = run.model.named_parameters()
    return {name.split(".")[0] for name, parameter in parameters if not torch.equal(parameter, before[name])}


@pytest.mark.slow
def test_each_stage_trains_its_parts(options, tmp_path):
    """The U-Net on single frames, then the graph on top of it, then everything."""
    quick = replace(options, steps=2)
    first = Trainer(replace(quick, stage="frame", workspace=tmp_path / "frame"))
    before = snapshot(first)
    first.run()
    assert changed(first, before) == {"unet"}
    assert set(first.scores) == {"novel_view", "novel_view_in_box"}  # single frames have no novel poses
    rows = read_rows(tmp_path / "frame" / "log.csv")
    assert all(row["loss"] > row["rgb"] > 0 and row["surface_distance"] > 0 for row in rows)

    init = tmp_path / "frame" / "model.safetensors"
    graph = Trainer(replace(quick, stage="graph", init=init, workspace=tmp_path / "graph"))
    before = snapshot(graph)
    assert all(torch.equal(before[name], parameter) for name, parameter in first.model.unet.named_parameters("unet"))
    graph.run()
    assert not graph.model.unet.training and graph.model.graph.training
    assert changed(graph, before) == {"graph", "head", "color_sampling"}
    assert all(row["surface_distance"] != row["surface_distance"] for row in read_rows(tmp_path / "graph" / "log.csv"))

    joint = Trainer(replace(quick, frame_weight=0.5, init=graph.options.workspace / "model.safetensors"))
    before = snapshot(joint)
    joint.run()
    assert changed(joint, before) == {"unet", "graph", "head", "color_sampling"}
    assert all(row["frame"] > 0 for row in read_rows(joint.options.workspace / "log.csv"))


def test_a_run_writes_a_checkpoint_and_logs(options, caplog):
    caplog.set_level(logging.INFO)
    run = Trainer(replace(options, steps=3, checkpoint_dtype="float16", image_every=2))
    run.run()
    model, metadata = load_checkpoint(options.workspace / "model.safetensors")
    assert metadata["step"] == "3" and metadata["data"] == "captures"
    assert model.options == options.model
    scores = read_rows(options.workspace / "scores.csv")
    assert [row["step"] for row in scores] == [0, 3]
    assert scores[-1]["novel_pose"] == pytest.approx(run.scores["novel_pose"])
    assert "since the start" in caplog.text and "mean loss of the first 3 steps" in caplog.text
    assert "2 training subjects, 1 held out" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["frame", "joint"])
def test_previews_are_logged_without_held_out_subjects(options, stage):
    data = replace(options.data, novel_frames=0, target_frames=1)
    Trainer(replace(options, data=data, stage=stage, steps=1, image_every=1, validation=0)).run()
    assert not (options.workspace / "scores.csv").exists() or not read_rows(options.workspace / "scores.csv")


@pytest.mark.slow
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(options, tmp_path, flat_images):
    """With accumulation, dropout, dropped views and a worker: everything that a step depends on is restored."""
    options = replace(options, accumulate=2, data=replace(options.data, num_workers=1))
    Trainer(replace(options, workspace=tmp_path / "whole")).run()
    interrupted = Trainer(options)
    save = interrupted._save

    def save_and_die():
        save()
        raise KeyboardInterrupt

    interrupted._save = save_and_die
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    torch.rand(17)  # the random state of this process differs from that of the interrupted one
    resumed = Trainer(replace(options, resume="auto"))
    assert resumed.step == 2
    resumed.run()
    whole, parts = (read_rows(folder / "log.csv") for folder in (tmp_path / "whole", options.workspace))
    assert [row["step"] for row in parts] == [1, 2, 3, 4]
    for a, b in zip(whole, parts, strict=True):
        assert {k: v for k, v in a.items() if v == v} == {k: v for k, v in b.items() if v == v}  # bitwise equal
    assert len({row["loss"] for row in parts}) == 4


@pytest.mark.slow
def test_a_checkpoint_lists_the_trainings_behind_it_also_after_resumption(options, tmp_path, flat_images):
    options = replace(options, validation=0, save_every=100)
    Trainer(replace(options, steps=1, batch_size=2)).run()
    init = tmp_path / "init.safetensors"
    shutil.copy(options.workspace / "model.safetensors", init)
    shutil.copy(times_file(options.workspace / "model.safetensors"), times_file(init))
    second = replace(options, steps=2, accumulate=3, init=init, workspace=tmp_path / "second")
    Trainer(second).run()
    init.unlink()  # the run state holds the list
    Trainer(replace(second, steps=3, resume="auto")).run()
    behind = read_trainings(read_metadata(second.workspace / "model.safetensors"))
    assert all(0 < training.minutes < 5 for training in behind)
    assert [replace(training, minutes=None) for training in behind] == [
        Training("joint", 1, 2, 32, None),
        Training("joint", 3, 3, 32, None),
    ]


def test_connectivity_is_read_from_a_file(options, body, flat_images, tmp_path):
    connectivity = build_connectivity(body, options.model.graph.neighbors)
    first, others = connectivity.neighbors.split([1, options.model.graph.neighbors - 1], 1)
    neighbors = torch.cat([first, others.flip(1)], 1)
    save_connectivity(tmp_path / "table.pt", replace(connectivity, neighbors=neighbors))
    run = Trainer(replace(options, connectivity=tmp_path / "table.pt"))
    assert torch.equal(run.model.graph.neighbors, neighbors)


@pytest.mark.parametrize("enabled", [True, False])
def test_cuda_graphs_can_be_disabled(options, flat_images, tmp_path, enabled):
    first = Trainer(replace(options, steps=1, stage="frame", workspace=tmp_path / "frame"))
    save_checkpoint(tmp_path / "unet.safetensors", first.model)
    model = Trainer(replace(options, stage="graph", init=tmp_path / "unet.safetensors", cuda_graphs=enabled)).model
    assert model.graph.graph_cache.enabled is model.unet.frozen.graph_cache.enabled is enabled


@pytest.mark.slow
def test_resuming_with_another_network_is_refused(options, flat_images):
    Trainer(replace(options, steps=1)).run()
    other = replace(options.model, graph=replace(options.model.graph, layers=2))
    with pytest.raises(InputError, match="another network or stage"):
        Trainer(replace(options, model=other, resume="auto"))


@pytest.mark.slow
def test_steps_with_non_finite_gradients_are_skipped_and_their_samples_named(options, monkeypatch, caplog, flat_images):
    forward = TrainingStep.forward
    calls = []

    def sometimes_nan(self, sample: Sample, *args):
        loss, report = forward(self, sample, *args)
        calls.append(sample.names)
        return (loss * float("nan") if len(calls) in (2, 3) else loss), report

    monkeypatch.setattr(TrainingStep, "forward", sometimes_nan)
    run = Trainer(replace(options, steps=4, max_bad_steps=2))
    run.run()
    assert run.records.skipped == 2
    assert "skipped step 2" in caplog.text and calls[1][0] in caplog.text
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    steps = {int(state["step"]) for state in run.optimizer.state.values()}
    assert steps == {2}

    calls.clear()
    with pytest.raises(InputError, match="2 steps had losses or gradients that are not finite"):
        Trainer(replace(options, steps=4, max_bad_steps=1, workspace=options.workspace / "again")).run()


@pytest.mark.slow
def test_only_samples_with_a_non_finite_loss_are_named(options, monkeypatch, caplog, flat_images):
    forward = TrainingStep.forward
    calls = []

    def second_is_nan(self, sample: Sample, *args):
        loss, report = forward(self, sample, *args)
        calls.append(sample.names)
        factor = float("nan") if len(calls) == 2 else 1.0
        return loss * factor, report * factor

    monkeypatch.setattr(TrainingStep, "forward", second_is_nan)
    Trainer(replace(options, steps=2, accumulate=2)).run()
    warning = next(record.getMessage() for record in caplog.records if "skipped step" in record.getMessage())
    assert "skipped step 1:" in warning
    assert calls[1][0] in warning and calls[0][0] not in warning


def with_bad_pixel(batches: Iterator[Sample], part: str, value: float) -> Iterator[Sample]:
    """The same batches; the second has a bad pixel in a corner, outside the mask."""
    for number, sample in enumerate(batches):
        sample = sample.unpack()
        if number == 1:
            getattr(sample, part).images[..., 0, 0] = value
        yield sample


@pytest.mark.slow
@pytest.mark.parametrize("part, value", [("inputs", math.nan), ("targets", math.nan), ("targets", math.inf)])
def test_a_non_finite_pixel_skips_one_step(options, monkeypatch, part, value):
    unpack = Sample.unpack
    monkeypatch.setattr(
        Sample, "unpack", lambda sample: sample if sample.inputs.images.is_floating_point() else unpack(sample)
    )
    run = Trainer(replace(options, steps=3, validation=0))
    run.batches = with_bad_pixel(run.batches, part, value)
    run.run()
    assert run.step == 3 and run.records.skipped == 1
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    assert {int(state["step"]) for state in run.optimizer.state.values()} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_with_finite_gradients_is_skipped(options, monkeypatch, flat_images, value):
    """As where a target's pixel is bad and nothing is rendered at it. One of two accumulated batches is enough."""
    forward = TrainingStep.forward
    calls = []

    def forward_beside(self, sample: Sample, *args):
        loss, report = forward(self, sample, *args)
        calls.append(sample.names)
        return (loss + value, report + value) if len(calls) == 3 else (loss, report)

    monkeypatch.setattr(TrainingStep, "forward", forward_beside)
    run = Trainer(replace(options, steps=3, accumulate=2, validation=0))
    run.run()
    assert run.records.skipped == 1
    assert {int(state["step"]) for state in run.optimizer.state.values()} == {2}


@pytest.mark.slow
def test_a_resumed_run_has_its_own_optimizer_options(options, flat_images, caplog):
    Trainer(replace(options, steps=1)).run()
    resumed = Trainer(replace(options, resume="auto", weight_decay=0.3, betas=(0.5, 0.6)))
    decaying, others = resumed.optimizer.param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert decaying["betas"] == others["betas"] == (0.5, 0.6)
    assert {int(state["step"]) for state in resumed.optimizer.state.values()} == {1}
    assert "some options differ" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("head", ["vertex", "residual"])
@pytest.mark.parametrize("stage", ["frame", "graph", "joint"])
def test_every_trained_parameter_gets_a_gradient(stage, head, options, tmp_path, monkeypatch):
    """As data-parallel training requires. Here one view shows next to nothing of the subject."""
    model = replace(options.model, graph=replace(options.model.graph, head=head))
    options = replace(options, model=model, frame_weight=0.5, validation=0)
    init = tmp_path / "start.safetensors"
    body = Trainer(replace(options, workspace=tmp_path / "other")).model
    save_checkpoint(init, body)
    run = Trainer(replace(options, stage=stage, init=init))
    sample = next(run.batches).unpack()
    for is_empty in (False, True):
        if is_empty:
            inputs = replace(sample.inputs, alphas=torch.zeros_like(sample.inputs.alphas))
            sample = replace(sample, inputs=inputs)
        loss, _ = run.module(sample, InputSubset([0], [0]), False)
        loss.backward()
        without = [name for name, p in run.model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
        run.model.zero_grad(set_to_none=True)


@pytest.mark.slow
def test_gains_of_colours_are_for_training_only(options):
    """Losses of two images of the same sample, with gains and without."""
    losses = {}
    for gain in (0.0, 0.3):
        data = replace(options.data, color_gain=gain)
        graph = replace(options.model.graph, dropout=0.0)
        run = Trainer(replace(options, data=data, model=replace(options.model, graph=graph), validation=0))
        sample = next(run.batches).unpack()
        for is_training in (True, False):
            run.module.train(is_training)
            with torch.no_grad():
                losses[gain, is_training] = float(run.module(sample, InputSubset([0], [0, 1]), False)[0])
    assert losses[0.3, False] == losses[0.0, False] == losses[0.0, True] != losses[0.3, True]


def test_feedback_renders_with_the_backend_of_the_run(options):
    run = Trainer(replace(options, model=replace(options.model, feedback=1), backend="torch"))
    assert run.model.feedback.backend == "torch"


def test_unusable_options_are_refused_before_training(options, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda"):
        setup.make_accelerator(replace(options, device="cuda"))
    for resume in ("none", "auto"):  # there is no run state
        with pytest.raises(InputError, match="--init"):
            Trainer(replace(options, stage="graph", resume=resume))
    with pytest.raises(InputError, match="--log-every must be at least 1, got 0"):
        Trainer(replace(options, log_every=0))
    with pytest.raises(InputError, match=r"--model\.feedback must be at least 0, got -1"):
        Trainer(replace(options, model=replace(options.model, feedback=-1)))
    with pytest.raises(InputError, match="--max-minutes must be above 0, got 0"):
        Trainer(replace(options, max_minutes=0.0))
    with pytest.raises(InputError, match="no checkpoint at"):
        Trainer(replace(options, init=tmp_path / "none.safetensors"))
    with pytest.raises(InputError, match="no such folder"):
        Trainer(replace(options, data=replace(options.data, root=tmp_path / "nowhere")))
    assert not options.workspace.exists()


def test_an_unreadable_image_is_named_in_one_line_by_a_worker_too(options, tmp_path):
    root = tmp_path / "captures"
    shutil.copytree(options.data.root, root)
    for image in root.glob("*/images_lr/*/*.jpg"):
        image.write_bytes(b"no image")
    data = replace(options.data, root=root, num_workers=1)
    with pytest.raises(InputError) as caught:
        Trainer(replace(options, data=data, validation=0)).run()
    message = str(caught.value)
    assert message.startswith(str(root)) and "_img.jpg" in message and "\n" not in message


@pytest.mark.slow
def test_a_run_of_limited_time_ends_at_its_limit(options, monkeypatch, flat_images):
    seconds = iter(range(0, 10_000, 20))  # every reading of the clock is 20 s later
    monkeypatch.setattr(Trainer, "run_seconds", lambda self: float(next(seconds)))
    monkeypatch.setattr(trainer, "CLOCK_EVERY", 1)
    run = Trainer(replace(options, steps=1000, max_minutes=1.0, validation=0))
    run.run()
    assert run.step == 3
    rates = [row["lr"] for row in read_rows(options.workspace / "log.csv")]
    assert rates[0] < options.lr and rates[-1] < 0.5 * options.lr
    assert read_metadata(options.workspace / "model.safetensors")["step"] == "3"
