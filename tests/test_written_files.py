"""Programs write nothing outside their output folder, start no program and open no connection, whatever they read."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from dotted_avatar import dotted_avatar
from drawn_captures import save, turning
from drawn_person import FOCAL, StubReader, TrueFit
from forked_script import run_script
from tiny_capture import TinyCapture
from tiny_network import TINY_UNET

from core.avatar.file import save_avatar
from core.capture import prepare
from core.checkpoint import save_checkpoint
from core.data.conversion import convert_capture
from core.data.readers import open_capture
from core.model.hgg import HumanGaussianGraph
from core.options import GraphOptions, ModelOptions
from smpl_renderer.files import REPOSITORY

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.spawn", "pty.spawn", "socket.connect"}
NAMES = ["../../x", "/tmp/hgg_escape/x", "a/../../../x", "..", "a\0b", "x" * 300, "-rf", "a\nb"]


def watch(record: Path, allowed: tuple[Path, ...]) -> Callable[[], None]:
    """A function that lets this process record what it does outside of some folders, from then on."""

    def is_allowed(path: object, folder: int) -> bool:
        start = os.curdir if folder < 0 else f"/proc/self/fd/{folder}"
        place = Path(os.path.realpath(Path(start, os.fsdecode(path))))
        is_cache = "__pycache__" in place.parts and place.is_relative_to(REPOSITORY)
        return is_cache or place.is_relative_to("/dev") or any(place.is_relative_to(folder) for folder in allowed)

    def note(event: str, arguments: tuple) -> None:
        paths: list[object] = []
        if event == "open" and isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & WRITES:
            paths = [arguments[0]]
        elif event in CHANGES:
            paths = [part for part in arguments[:2] if isinstance(part, str | bytes | os.PathLike)]
        folder = arguments[1] if event in ("os.remove", "os.rmdir") else -1  # to which the path is relative
        outside = [path for path in paths if b"\0" not in os.fsencode(path) and not is_allowed(path, folder)]
        if event in STARTS or outside:
            os.write(number, f"{event} {arguments!r}\n".encode(errors="replace"))

    number = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda: sys.addaudithook(note)


def run_watched(tmp_path: Path, *command: str | Path) -> tuple[int, str]:
    """Exit status and stderr of a program that may write to `out` only."""
    record = tmp_path / "record"
    done = run_script(*command, cwd=tmp_path, prepare=watch(record, (tmp_path / "out", tmp_path / "caches")))
    assert record.read_text() == "", command
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def given(tmp_path_factory, body) -> Path:
    """An avatar, a network, a capture in both layouts, and images of a person."""
    folder = tmp_path_factory.mktemp("given")
    TinyCapture(image_size=(153, 128), num_cameras=4).write(folder / "200100", body)
    convert_capture(open_capture(folder / "200100"), folder / "own", "capture", body, check=False)
    save_avatar(folder / "avatar.safetensors", dotted_avatar(body, 500))
    model = ModelOptions(unet=TINY_UNET, graph=GraphOptions(features=8, queries=1, layers=1, heads=2))
    save_checkpoint(folder / "tiny.safetensors", HumanGaussianGraph(model, body), step=3)
    return folder


USES = {
    "export a page": "scripts/export.py {given}/avatar.safetensors --to html --motion idle --out out/a.html",
    "export points": "scripts/export.py {given}/avatar.safetensors --to ply --out out/a.ply",
    "edit": "scripts/edit.py {given}/avatar.safetensors --keep head --out out/a.safetensors",
    "animate": "scripts/animate.py {given}/avatar.safetensors idle --size 32 --seconds 0.2 --out out/a",
    "convert": "scripts/convert_capture.py {given}/own --out out --to mvhumannet --no-check",
    "pack": "scripts/prepare_data.py --root {given}/200100 --out out --crop person --size 32 --workers 0 --no-verify",
    "infer": "infer.py {given}/200100 --checkpoint {given}/tiny.safetensors --workspace out --device cpu --refine 1 "
    "--video-size 48 --video-frames 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_usual_runs_write_to_their_output_only(use, given, tmp_path):
    status, errors = run_watched(tmp_path, *(part.format(given=given) for part in USES[use].split()))
    assert status == 0, errors[-2000:]
    assert any((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_body_fits_are_written_into_their_capture_only(given, tmp_path):
    shutil.copytree(given / "200100", tmp_path / "out" / "200100")
    options = "--redo --frames 5 --cameras 2 --steps 0.02 --workers 0 --device cpu --landmarks none"
    status, errors = run_watched(tmp_path, "scripts/fit_body.py", "out/200100", *options.split())
    assert status == 0 and "1 frames fitted" in errors, errors[-2000:]


@pytest.mark.slow
def test_captures_of_images_are_written_to_their_folder_only(tmp_path, body, monkeypatch):
    frames = turning(body, count=2)
    images = save(frames, tmp_path / "images")
    options = ("--frames", "2", "--focal", str(FOCAL), "--device", "cpu")
    drawn = partial(prepare.prepare_capture, reader=StubReader(frames), fit=TrueFit(frames))
    monkeypatch.setattr(prepare, "prepare_capture", drawn)  # the script imports it in a fork of this process
    status, errors = run_watched(tmp_path, "scripts/prepare_capture.py", images, "--out", "out/own", *options)
    assert status == 0, errors[-2000:]
    assert (tmp_path / "out" / "own" / "capture.json").is_file()


@pytest.mark.slow
def test_what_is_written_elsewhere_is_noticed(given, tmp_path):
    with pytest.raises(AssertionError, match=r"other/a\.ply"):
        run_watched(tmp_path, *USES["export points"].format(given=given).replace("out/", "other/").split())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["camera", "image", "fit"])
@pytest.mark.parametrize("name", NAMES)
def test_names_in_captures_lead_nowhere_else(part, name, given, tmp_path):
    text = (given / "own" / "capture.json").read_text()
    content = json.loads(text)
    camera, frame = next(iter(content["cameras"])), content["frames"][0]
    if part == "camera":
        content = json.loads(text.replace(json.dumps(camera), json.dumps(name)))
    elif part == "image":
        frame["images"][camera] = name
    else:
        frame["fit"] = name
    (tmp_path / "in").mkdir()
    for folder in ("images", "masks", "fits"):
        (tmp_path / "in" / folder).symlink_to(given / "own" / folder)
    (tmp_path / "in" / "capture.json").write_text(json.dumps(content))
    command = ("scripts/convert_capture.py", tmp_path / "in", "--out", "out", "--to", "capture", "--no-check")
    status, errors = run_watched(tmp_path, *command)
    assert status in (0, 2) and "Traceback" not in errors, errors[-2000:]
    if name not in ("-rf", "a\nb"):
        assert status == 2 and errors.splitlines()[-1].startswith("error: "), errors[-2000:]
