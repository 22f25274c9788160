"""The benchmark: its file is current, its splits are disjoint, and deviations from it are found."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from scripts.synthetic import GENERATOR_VERSION, PAPER_FRAMES, CaptureOptions
from scripts.synthetic.benchmark import (
    Benchmark,
    Means,
    Split,
    check_images,
    check_parameters,
    image_means,
    read_benchmark,
    scene_checksum,
    updated,
    write_benchmark,
)
from scripts.synthetic.seeding import digest
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

CONFIG = REPOSITORY / "configs" / "benchmark.json"
TINY = CaptureOptions(seed=1, cameras=2, frames=(55, 155), width=76, height=64, smpl_param=False)


def make_benchmark(*arguments, **options):
    """Run the script's `main`."""
    spec = importlib.util.spec_from_file_location("make_benchmark", REPOSITORY / "scripts" / "make_benchmark.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(*arguments, **options, device="cpu", workers=0)


@pytest.fixture(scope="module")
def tiny(body, tmp_path_factory):
    """Folder with the file of a benchmark of three people and its captures."""
    folder = tmp_path_factory.mktemp("benchmark")
    splits = {"train": Split(209001, 2), "test": Split(209003, 1)}
    write_benchmark(folder / "tiny.json", Benchmark("", "", TINY, splits))
    make_benchmark(config=folder / "tiny.json", update=True)
    make_benchmark(folder / "made", config=folder / "tiny.json", contact_sheet=True)
    return folder


def test_the_shipped_file_has_the_frames_and_cameras_of_the_paper():
    shipped = read_benchmark(CONFIG)
    assert shipped.generator == GENERATOR_VERSION
    assert {name: split.subjects for name, split in shipped.splits.items()} == {"train": 400, "val": 20, "test": 10}
    ids = [subject for split in shipped.splits.values() for subject in split.indices]
    assert len(set(ids)) == 430
    capture = shipped.capture
    assert (capture.rig, capture.cameras, capture.frames) == ("24", 16, PAPER_FRAMES)
    assert (capture.width, capture.height) == (612, 512) and capture.samples**2 >= 4
    assert capture.camera_noise and capture.soft_masks and not capture.holes


def test_the_shipped_file_is_of_this_version(body):
    """Fails if people or cameras change; then run `python scripts/make_benchmark.py --update`."""
    shipped = read_benchmark(CONFIG)
    check_parameters(shipped, ["test"], body)
    one = replace(shipped.splits["test"], subjects=1)
    drawn = updated(replace(shipped, splits={"test": one}), body).splits["test"].images
    assert len(drawn) == 2
    for key, means in drawn.items():
        assert means.agrees(shipped.splits["test"].images[key]), key


@pytest.mark.slow
def test_one_command_makes_the_benchmark(tiny):
    made = tiny / "made"
    assert json.loads((made / "train/human.json").read_text())["human_id"] == ["209001", "209002"]
    assert json.loads((made / "test/human.json").read_text())["human_id"] == ["209003"]
    assert json.loads((made / "test/209003/body.json").read_text())["options"]["split"] == "test"
    assert (made / "train.png").is_file() and (made / "test.png").is_file()
    benchmark = read_benchmark(tiny / "tiny.json")
    assert check_images(benchmark, ["train", "test"], made) == 6
    assert check_images(benchmark, ["test"], made) == 2
    assert check_images(benchmark, ["train", "test"], tiny) == 0, "missing captures are left out"


@pytest.mark.slow
def test_complete_captures_are_kept(tiny):
    stamps = sorted((tiny / "made").glob("*/*/body.json"))
    before = [stamp.stat().st_mtime_ns for stamp in stamps]
    make_benchmark(tiny / "made", config=tiny / "tiny.json")
    assert [stamp.stat().st_mtime_ns for stamp in stamps] == before


def test_parts_write_disjoint_subjects(tiny, tmp_path):
    make_benchmark(tmp_path, ("train",), "1/2", tiny / "tiny.json")
    assert [path.name for path in tmp_path.glob("train/2*")] == ["209002"]
    with pytest.raises(InputError, match="--part 2/2"):
        make_benchmark(tmp_path, ("train",), "2/2", tiny / "tiny.json")


def test_means_hold_for_encoded_files(tiny, body):
    """Means are measured before encoding; those of the files differ by less than the tolerance for other encoders."""
    benchmark = read_benchmark(tiny / "tiny.json")
    for name, split in benchmark.splits.items():
        for key, means in split.images.items():
            subject, camera, frame = key.split("/")
            folder = tiny / "made" / name / subject
            color = np.asarray(Image.open(folder / "images_lr" / camera / f"{frame}_img.jpg"))
            mask = np.asarray(Image.open(folder / "fmask_lr" / camera / f"{frame}_img_fmask.png"))
            files = image_means(color, mask)
            assert np.abs(np.subtract(files.color, means.color)).max() < 0.5 / 255
            assert files.coverage == means.coverage


def test_an_image_of_other_colors_is_found(tiny, tmp_path):
    benchmark = read_benchmark(tiny / "tiny.json")
    key = "209003/22327091/0055"
    means = benchmark.splits["test"].images[key]
    for changed in (
        Means((means.color[0] + 1.5 / 255, *means.color[1:]), means.coverage),
        Means(means.color, means.coverage - 1.5 / 255),
    ):
        test = replace(benchmark.splits["test"], images={key: changed})
        with pytest.raises(InputError, match=key):
            check_images(replace(benchmark, splits={"test": test}), ["test"], tiny / "made")


def test_other_people_cameras_or_options_are_found(tiny, body):
    benchmark = read_benchmark(tiny / "tiny.json")
    check_parameters(benchmark, ["train", "test"], body)
    for capture in (replace(TINY, seed=2), replace(TINY, rig="48"), replace(TINY, quality=91)):
        with pytest.raises(InputError, match="checksums differ"):
            check_parameters(replace(benchmark, capture=capture), ["test"], body)
    with pytest.raises(InputError, match="generator 1"):
        check_parameters(replace(benchmark, generator="1"), ["test"], body)
    split = Split(209001, 2)
    assert scene_checksum(split, TINY, body) != scene_checksum(replace(split, first_subject=209002), TINY, body)


def test_digests_ignore_the_last_digits():
    assert digest({"a": [1.0, 2]}) == digest({"a": (1.0 + 1e-12, 2)})
    assert len({digest({"a": [value, 2]}) for value in (1.0, 1.0001, 1)}) == 3
    assert digest({"a": 1.0}) != digest({"b": 1.0})


def test_errors_name_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"configs/benchmark\.json"):
        read_benchmark(tmp_path / "missing.json")
    with pytest.raises(InputError, match="--splits traain"):
        make_benchmark(tmp_path, ("traain",))
    with pytest.raises(InputError, match="--check and --update"):
        make_benchmark(tmp_path, check=True, update=True)
    for broken in ("[]", "{", '{"generator": "2", "body": "", "capture": {"rig": "16"}, "splits": {}}'):
        (tmp_path / "broken.json").write_text(broken)
        with pytest.raises(InputError, match=r"broken\.json: not a benchmark of this version"):
            read_benchmark(tmp_path / "broken.json")


def test_an_unreadable_image_is_named(tiny, tmp_path):
    shutil.copytree(tiny / "made" / "test", tmp_path / "test")
    image = tmp_path / "test/209003/images_lr/22327091/0055_img.jpg"
    for damage in (lambda: image.write_bytes(image.read_bytes()[:200]), image.unlink):
        damage()
        with pytest.raises(InputError, match=r"209003/22327091/0055 cannot be read.*another --out"):
            check_images(read_benchmark(tiny / "tiny.json"), ["test"], tmp_path)
