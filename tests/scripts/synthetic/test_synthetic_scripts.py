"""`scripts/make_synthetic.py`: sets in parts, resumed and mixed sets, remains of killed runs, bad input."""

import importlib.util
import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from core.utils.ranges import checked
from scripts.synthetic import CaptureOptions, sets
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

TINY = {"cameras": 2, "frames": (5, 10), "width": 38, "height": 32, "device": "cpu", "workers": 0}


def make_synthetic(out: Path, **options) -> None:
    """Run the script for tiny images, its arguments checked as on the command line."""
    spec = importlib.util.spec_from_file_location("make_synthetic", REPOSITORY / "scripts" / "make_synthetic.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    checked(script.main)(out, **(TINY | options))


def listed(folder: Path) -> dict:
    return json.loads((folder / "human.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two people in two parts; in the second part a killed run has left an incomplete capture."""
    folder = tmp_path_factory.mktemp("people")
    make_synthetic(folder, subjects=2, part="0/2")
    assert listed(folder)["human_id"] == ["209001"]
    left = folder / ".209002.0123abcd" / "images_lr"
    left.mkdir(parents=True)
    make_synthetic(folder, subjects=2, part="1/2", contact_sheet=folder / "sheet.png")
    return folder


def test_parts_make_a_set(made):
    assert listed(made) == {
        "human_id": ["209001", "209002"],
        "view_id_list": ["22327091", "22327116"],
        "pose_id_list": ["0005", "0010"],
    }
    assert Image.open(made / "sheet.png").height == 160, "one person in this part"


@pytest.mark.usefixtures("warm_python")
def test_several_processes_write_the_same_files(made, tmp_path):
    make_synthetic(tmp_path, subjects=2, workers=2)
    assert listed(tmp_path) == listed(made)
    for name in ("209001", "209002"):
        images = sorted((tmp_path / name).glob("*/*/*"))
        assert len(images) == 8
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert len(files) > len(images)
        for file in files:
            assert file.read_bytes() == (made / file.relative_to(tmp_path)).read_bytes(), file


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_an_error_in_a_process_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "_write_one", _fail_first)
    with pytest.raises(RuntimeError, match="the first one"):
        make_synthetic(tmp_path, subjects=12, workers=1)
    assert len(list(tmp_path.iterdir())) < 6, "only captures that were already assigned to a process are written"


def _fail_first(job):
    folder, index, *_ = job
    if index == 1:
        raise RuntimeError("the first one")
    time.sleep(0.2)
    folder.mkdir(parents=True)


@pytest.mark.usefixtures("warm_python")
def test_a_killed_process_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "_write_one", _killed)
    with pytest.raises(InputError, match="because memory is exhausted; use fewer --workers"):
        make_synthetic(tmp_path, subjects=2, workers=1)


def _killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_remains_of_killed_runs_are_removed(made):
    assert {path.name for path in made.iterdir()} == {"209001", "209002", "human.json", "sheet.png"}


def test_complete_captures_are_kept(made):
    stamps = [made / name / "body.json" for name in ("209001", "209002")]
    before = [stamp.stat().st_mtime_ns for stamp in stamps]
    make_synthetic(made, subjects=2)
    assert [stamp.stat().st_mtime_ns for stamp in stamps] == before


@pytest.mark.slow
def test_human_json_lists_only_captures_with_its_cameras_and_frames(tmp_path, caplog):
    make_synthetic(tmp_path, subjects=2, cameras=1)
    with caplog.at_level(logging.WARNING):
        make_synthetic(tmp_path, subjects=1, cameras=1, frames=(5,))
    assert listed(tmp_path) == {"human_id": ["209001"], "view_id_list": ["22327091"], "pose_id_list": ["0005"]}
    assert "1 captures have other cameras, other frames" in caplog.text
    # Captures of other seeds and camera effects are compatible.
    make_synthetic(tmp_path, subjects=1, first_subject=209005, seed=3, cameras=1, frames=(5,), camera_noise=False)
    assert listed(tmp_path)["human_id"] == ["209001", "209005"]


def test_an_empty_part_writes_no_sheet(tmp_path):
    make_synthetic(tmp_path, subjects=1, part="1/2", contact_sheet=tmp_path / "sheet.png")
    assert listed(tmp_path)["human_id"] == [] and not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": 0}, "--subjects"),
        ({"frames": (), "poses": 0}, "--poses"),
        ({"frames": (5, 7)}, "frames 5 7: frame ids must be positive multiples of 5"),
        ({"frames": (0,)}, "--frames must be at least 1"),
        ({"frames": (5, 10, 5)}, "frames 5 10 5: frame ids must not repeat"),
        ({"cameras": 0}, "--cameras must be at least 1"),
        ({"samples": 0}, "--samples must be at least 1"),
        ({"width": 8}, "width 8"),
        ({"quality": 101}, "--quality must be at most 100"),
        ({"fit_noise": -0.01}, "--fit-noise must be at least 0"),
        ({"fit_noise": float("nan")}, "--fit-noise must be a finite number"),
        ({"part": "2/2"}, "--part 2/2"),
        ({"contact_sheet": Path("sheet.tga")}, "--contact-sheet sheet.tga"),
        ({"body": Path("no-such-body.npz")}, "no-such-body.npz"),
    ],
)
def test_bad_input_is_an_error_before_drawing(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        make_synthetic(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder"):
        make_synthetic(tmp_path / "file")


def test_unknown_rigs_are_an_error():
    with pytest.raises(InputError, match="rig 16: must be one of 24, 48, phone"):
        CaptureOptions(rig="16")
