"""Errors of infer.py: one line, and nothing is written."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import infer
from core.utils.cli import run

ROOT = Path(__file__).parents[2]
FRAMES = (5, 10, 15, 20)


def refusal(main, capsys) -> str:
    """The one line of an error, without progress bars."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_held_out_frames_leave_an_input(options, capsys):
    line = refusal(lambda: infer.main(replace(options, novel_frames=FRAMES)), capsys)
    assert "--novel-frames names all frames" in line
    line = refusal(lambda: infer.main(replace(options, novel_frames=(5,), observed_frames=(5, 10))), capsys)
    assert "both name 0005" in line


def test_unknown_camera(options, small_protocol, capsys):
    line = refusal(lambda: infer.main(replace(options, input_views=("22327091", "99999999"))), capsys)
    assert "99999999" in line and "22236222" in line  # the requested one, and the existing ones
    assert not options.workspace.exists()


def test_unknown_frame(options, small_protocol, capsys):
    line = refusal(lambda: infer.main(replace(options, observed_frames=(5, 7))), capsys)
    assert "0007" in line and "0005, 0010" in line


def test_checkpoint_for_another_body(options, body, tmp_path, small_protocol, capsys):
    capture = tmp_path / "209803"
    shutil.copytree(options.captures, capture)
    (capture / "body.json").write_text(json.dumps({"fingerprint": "0123456789abcdef"}))
    line = refusal(lambda: infer.main(replace(options, captures=capture)), capsys)
    assert "0123456789abcdef" in line and "209803" in line
    (capture / "body.json").unlink()  # then its fits are of SMPL
    line = refusal(lambda: infer.main(replace(options, captures=capture)), capsys)
    assert "SMPL" in line and "209803" in line
    assert not options.workspace.exists()


def test_an_unreadable_image_leaves_no_output(options, tmp_path, small_protocol, capsys):
    capture = tmp_path / "209804"
    shutil.copytree(options.captures, capture)
    # A held-out frame: it is read for the sheet, after the other files have been written.
    for image in capture.glob("images_lr/22236*/0020_img.jpg"):
        image.write_bytes(image.read_bytes()[:300])
    line = refusal(lambda: infer.main(replace(options, captures=capture, novel_frames=(20,))), capsys)
    assert "0020_img.jpg" in line
    assert not options.workspace.exists() or not list(options.workspace.iterdir())


def test_other_files_are_not_overwritten(options, small_protocol, capsys):
    """The workspace is the folder of captures: results would replace the captures."""
    line = refusal(lambda: infer.main(replace(options, workspace=options.captures.parent)), capsys)
    assert "--workspace" in line
    assert (options.captures / "camera_extrinsics.json").is_file()


def test_cuda_that_is_not_available_is_refused(options, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refusal(lambda: infer.main(replace(options, device="cuda")), capsys)
    assert "cuda" in line and "--device cpu" in line


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"captures": Path("no/such/folder")}, "no/such/folder"),
        ({"checkpoint": Path("no_such.safetensors")}, "no_such.safetensors"),
        ({"backend": "opengl"}, "opengl"),
        ({"protocol": "paper"}, "200102"),
        ({"body": Path("no_such_body.pkl")}, "no_such_body.pkl"),
        ({"refine": -1}, "--refine must be at least 0"),
        ({"attention": "flash"}, "attention must be one of sdpa, xformers"),
        ({"attention": "xformers"}, "attention xformers cannot be loaded"),
    ],
)
def test_missing_things_are_named(options, change, named, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)  # as if it was not installed
    assert named in refusal(lambda: infer.main(replace(options, **change)), capsys)
    assert not options.workspace.exists()


@pytest.mark.slow
def test_command_line(captures):
    """The program itself: one line, status 2, no traceback."""
    arguments = [captures / "209801", "--checkpoint", "no_such.safetensors", "--device", "cpu"]
    result = subprocess.run([sys.executable, ROOT / "infer.py", *arguments], capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "no_such.safetensors" in result.stderr
