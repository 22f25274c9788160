"""scripts/benchmark.py step: a realistic sample, timings of every part, errors."""

import json
from dataclasses import replace

import pytest
import torch

from core.options import PRESETS, TrainOptions
from scripts.benchmarks.step import HEADER, PARTS, Job, step, time_step
from smpl_renderer.dispatch import kernels_wanted
from smpl_renderer.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def options() -> TrainOptions:
    """The smallest preset, with smaller and fewer images."""
    options = PRESETS["demo"][1]
    data = replace(options.data, image_size=32, input_frames=2, target_frames=2, novel_frames=1, target_views=5)
    return replace(options, data=data, batch_size=2)


def test_images_show_people_and_targets_begin_with_the_inputs(options):
    sample = Job(options, "graph", CPU).sample
    assert sample.inputs.images.shape == (2, 2, 4, 3, 32, 32) and sample.targets.images.shape == (2, 2, 5, 3, 32, 32)
    assert 0.05 < sample.targets.alphas.mean() < 0.25
    outside = sample.targets.images[(sample.targets.alphas == 0).expand_as(sample.targets.images)]
    assert (outside == 1).all()
    assert torch.equal(sample.targets.images[:, 0, :4], sample.inputs.images[:, 0])
    assert torch.equal(sample.targets.cameras.viewmats[:, 0, :4], sample.inputs.cameras.viewmats[:, 0])
    assert not torch.equal(sample.targets.body.body_pose[:, 1], sample.inputs.body.body_pose[:, 1])  # a novel pose


@pytest.mark.parametrize(
    ("stage", "missing"), [("joint", set()), ("frame", {"graph", "head", "colour sampling", "feedback"})]
)
@pytest.mark.slow
def test_all_parts_of_a_step_are_timed(options, stage, missing):
    data, model = replace(options.data, target_frames=1, novel_frames=0), replace(options.model, feedback=1)
    options = replace(options, data=data, model=model, batch_size=1)
    timing = time_step("smallest", stage, options, repeats=1, device=CPU)
    assert timing.samples_per_second == pytest.approx(1000 / timing.total_ms)
    parts = dict(zip(PARTS, list(vars(timing).values())[6:]))
    assert {part for part, duration in parts.items() if duration is None} == missing
    assert sum(duration for duration in parts.values() if duration) > 0


def test_an_unknown_preset_is_named():
    with pytest.raises(InputError, match="unknown preset 'huge'"):
        step(presets=("huge",), device="cpu")


def test_references_are_timed_in_the_same_run(options, monkeypatch, tmp_path):
    monkeypatch.setitem(PRESETS, "smallest", ("", options))
    wanted = []

    def count(job, index=0):
        wanted.append(kernels_wanted())

    monkeypatch.setattr(Job, "run", count)
    step(presets=("smallest",), stages=("avatar",), repeats=1, device="cpu", out=tmp_path / "times.json")
    timings = json.loads((tmp_path / "times.json").read_text())["step"]
    assert [t["operations"] for t in timings] == ["kernels", "reference"]
    half = len(wanted) // 2
    assert all(wanted[:half]) and not any(wanted[half:]) and kernels_wanted()


@pytest.mark.slow
def test_a_step_that_exceeds_the_memory_is_a_row_of_dashes(options, monkeypatch, capsys):
    def fail(job, index=0):
        raise torch.OutOfMemoryError

    monkeypatch.setitem(PRESETS, "smallest", ("", options))
    monkeypatch.setattr(Job, "run", fail)
    step(presets=("smallest",), stages=("avatar",), operations=("reference",), repeats=1, device="cpu")
    row = capsys.readouterr().out.splitlines()[2].split()
    assert row == ["smallest", "avatar", "reference", "1", *["-"] * (len(HEADER) - 4)]
