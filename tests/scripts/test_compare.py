"""scripts/compare.py: correct differences, and evaluations with different protocols are refused."""

import copy
import json
from pathlib import Path

import pytest
from forked_script import run_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare.py"


@pytest.fixture
def metrics():
    scores = {"psnr": 27.0, "psnr_box": 21.0, "ssim": 0.95, "lpips": 0.05, "lpips_alex": None}
    splits = {"novel_view": scores, "novel_pose": scores | {"psnr": 26.0}}
    subject = {"input_views": ["22327091"], "observed_frames": [5, 10]}
    return {
        "mean": splits,
        "subjects": {"209901": splits},
        "baselines": {},
        "settings": {
            "protocol": {"name": "quick", "image_size": 512, "subjects": {"209901": subject}},
            "checkpoint": {"name": "a.safetensors", "sha256": "0" * 64},
        },
    }


def compare(folder, a, b):
    paths = []
    for name, metrics in (("a", a), ("b", b)):
        (folder / name).mkdir()
        (folder / name / "metrics.json").write_text(json.dumps(metrics))
        paths.append(folder / name / "metrics.json")
    return run_script(SCRIPT, *paths)


def test_both_values_and_their_difference_are_printed(tmp_path, metrics):
    better = copy.deepcopy(metrics)
    better["mean"]["novel_view"]["psnr"] = 28.5
    better["settings"]["checkpoint"]["name"] = "b.safetensors"  # checkpoints may differ
    result = compare(tmp_path, metrics, better)
    assert result.returncode == 0, result.stderr
    mean_row = next(line for line in result.stdout.splitlines() if line.startswith("mean"))
    assert mean_row.split()[3:6] == ["27.00", "28.50", "1.50"]
    assert "b.safetensors" in result.stdout and "209901" in result.stdout
    assert mean_row.split()[-1] == "-"  # a metric that was not measured


def test_steps_beside_the_network_are_named(tmp_path, metrics):
    other = copy.deepcopy(metrics)
    other["settings"] |= {"alignment": {"rounds": 2, "steps": 25}, "completion": True, "refinement": {"steps": 12}}
    first, second, *_ = compare(tmp_path, metrics, other).stdout.splitlines()
    assert first.endswith(")")
    assert second.endswith("), inputs aligned by 2 x 25 steps, colours completed, refined by 12 steps")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda p: p.update(image_size=256), "protocol.image_size"),
        (lambda p: p["subjects"]["209901"].update(observed_frames=[5]), "protocol.subjects.209901.observed_frames"),
        (lambda p: p["subjects"].update({"209902": {}}), "protocol.subjects.209902"),
    ],
)
def test_different_protocols_are_refused(tmp_path, metrics, change, name):
    other = copy.deepcopy(metrics)
    change(other["settings"]["protocol"])
    result = compare(tmp_path, metrics, other)
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and name in result.stderr


@pytest.mark.parametrize("other", [["no evaluation"], {"mean": {}, "subjects": {}, "settings": {}}])
def test_other_files_are_refused(tmp_path, metrics, other):
    result = compare(tmp_path, metrics, other)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and str(tmp_path / "b") in result.stderr
