"""scripts/benchmark.py data and scaling on given captures: output and plausible timings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from forked_script import run_script
from tiny_capture import TinyCapture

from core.data.dataset import load_frames
from core.data.human_list import find_subjects
from core.data.readers import open_capture
from core.options import DataOptions
from scripts.benchmarks.data import PlainImages, batches, samples_per_second

SCRIPT = Path(__file__).parents[3] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory, body) -> Path:
    """One person in four frames and eight cameras."""
    folder = tmp_path_factory.mktemp("captures")
    TinyCapture(image_size=(306, 256), frames=(5, 10, 15, 20), num_cameras=8).write(folder / "209001", body)
    return folder


def benchmark(*arguments) -> str:
    done = run_script(SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plain_loader_reads_the_same_images(root, body):
    options = DataOptions(root=root, image_size=64, target_frames=2, target_views=3)
    plain = PlainImages(find_subjects(root), options)
    images, alphas = plain[7, 0]
    assert images.shape == (2, 3, 3, 64, 64) and alphas.shape == (2, 3, 1, 64, 64)
    capture = open_capture(root / "209001")
    views = capture.camera_names[:3]
    candidates = load_frames(capture, body, capture.frame_ids, views, views[0], 64, "center")
    for image, alpha in zip(images, alphas):
        errors = (candidates.images - image).abs().mean((1, 2, 3, 4)) + (candidates.alphas - alpha).abs().mean(
            (1, 2, 3, 4)
        )
        assert errors.min() < 0.01


def test_rates_count_samples_per_second():
    assert samples_per_second(iter(int, 1), workers=2, seconds=0.05) > 1000


def test_only_the_first_subjects_of_a_folder_are_read(root, tmp_path):
    for name in ("209001", "209002"):
        shutil.copytree(root / "209001", tmp_path / name)
    options = DataOptions(root=tmp_path, image_size=64, input_frames=2, target_frames=2, num_workers=0, verify=False)
    samples = batches("ours", options, people=1)
    assert all(next(samples).names[0].startswith("209001/") for _ in range(4))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_data_compares_four_loaders(root, tmp_path):
    out = tmp_path / "data.json"
    table = benchmark(
        "data", "--root", root, "--workers", 0, 1, "--image-size", 64, "--height", 256, "--seconds", 0.5, "--out", out
    )
    rows = json.loads(out.read_text())["data"]
    assert [(row["loader"], row["workers"]) for row in rows] == [
        (x, n) for x in ("plain", "ours", "packed", "ready") for n in (0, 1)
    ]
    assert all(row["samples_per_second"] > 0 and row["images"] == 32 for row in rows)
    assert "samples/s" in table


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes on the CPU")
def test_scaling_trains_with_one_and_two_processes(root, tmp_path):
    out = tmp_path / "scaling.json"
    job = ("--preset", "demo", "--stage", "graph", "--root", root, "--workers", 0, "--steps", 1, "--device", "cpu")
    benchmark("scaling", *job, "--out", out)
    one, two = json.loads(out.read_text())["scaling"]
    assert (one["processes"], one["samples"], one["efficiency"]) == (1, 1, 1.0)
    assert (two["processes"], two["samples"]) == (2, 2) and 0 < two["efficiency"] < 2
