"""Every entry point with every kind of file that it cannot use: one line, exit status 2, nothing written.

The programs run in this process, one after the other: only so do some hundred cases take seconds.
"""

import json
import logging
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.commands import launch
from dotted_avatar import dotted_avatar
from PIL import Image
from tiny_capture import TinyCapture

from core.avatar.file import save_avatar
from core.utils.environment import SIGNALS
from smpl_renderer.files import REPOSITORY

LAUNCHER = ("simple_launcher", "load_config_from_file")
"""Functions of accelerate's launcher that scripts/launch.py replaces."""
KINDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "no content": lambda path: path.symlink_to("/dev/null"),
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
    "empty": Path.touch,
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "folder": Path.mkdir,
    "deep": lambda path: path.write_text("[" * 200_000),
    "large number": lambda path: path.write_text(
        '{"a": 1' + "0" * 400 + ', "frames": [1e308, NaN], "subjects": -1e999}'
    ),
    "list": lambda path: path.write_text("[1, [2], {}]"),
    "large": lambda path: path.open("wb").truncate(2**43),  # sparse
    "header": lambda path: path.write_bytes((2**40).to_bytes(8, "little") + b"{}"),
}
FEW = ("missing", "pipe", "bytes", "large number")
USES = {
    "main.py": (
        ("demo", "--data.root", "FILE"),
        ("demo", "--data.root", "{captures}", "--init", "FILE"),
        ("demo", "--data.root", "{captures}", "--data.body", "FILE.npz"),
        ("demo", "--data.root", "{captures}", "--connectivity", "FILE"),
        ("demo", "--data.root", "{captures}", "--resume", "FILE"),
        ("demo", "--data.root", "{captures}", "--validation-root", "FILE"),
    ),
    "infer.py": (
        ("FILE",),
        ("FILE.mp4",),
        ("{captures}", "--checkpoint", "FILE"),
        ("{captures}", "--body", "FILE.pkl"),
        ("{captures}", "--motion", "FILE.bvh"),
        ("{image}", "--workspace", "{out}", "--prepare.calibration", "FILE.json"),
    ),
    "vertex_connectivity.py": (("--body", "FILE.npz"), ("--body", "FILE.pkl")),
    "scripts/animate.py": (
        ("FILE", "walk"),
        ("{avatar}", "FILE.npz"),
        ("{avatar}", "FILE.json"),
        ("{avatar}", "idle", "--camera", "FILE"),
        ("{avatar}", "idle", "--body", "FILE.npz"),
    ),
    "scripts/benchmark.py": (("data", "--root", "FILE"),),
    "scripts/check_requirements.py": (("FILE",),),
    "scripts/compare.py": (("FILE", "{metrics}"), ("{metrics}", "FILE")),
    "scripts/convert_capture.py": (
        ("FILE", "--out", "{out}", "--to", "capture"),
        ("{captures}", "--out", "{out}", "--to", "mvhumannet", "--body", "FILE.npz"),
    ),
    "scripts/edit.py": (
        ("FILE", "--out", "{out}/a.safetensors"),
        ("{avatar}", "FILE", "--out", "{out}/a.safetensors"),
        ("{avatar}", "--keep", "head", "--body", "FILE.pkl", "--out", "{out}/a.safetensors"),
    ),
    "scripts/export.py": (
        ("FILE", "--to", "ply", "--out", "{out}/a.ply"),
        ("{avatar}", "--to", "html", "--motion", "FILE.pkl", "--out", "{out}/a.html"),
        ("{avatar}", "--to", "glb", "--body", "FILE.npz", "--out", "{out}/a.glb"),
    ),
    "scripts/fit_body.py": (("FILE",), ("{captures}", "--body", "FILE.npz", "--workers", "0")),
    "scripts/get_lpips.py": (("--archive", "FILE.tar.gz", "--out", "{out}"),),
    "scripts/get_pose_models.py": (("--archive", "FILE.whl", "--out", "{out}"),),
    "scripts/launch.py": (("--config_file", "FILE.yaml", "main.py"),),
    "scripts/doctor.py": (),
    "scripts/make_benchmark.py": (("--config", "FILE", "--out", "{out}"),),
    "scripts/make_pose_prior.py": (),
    "scripts/make_standin_body.py": (("FILE", "--out", "{out}/a.npz"),),
    "scripts/make_synthetic.py": (("--out", "{out}", "--body", "FILE.npz"), ("--out", "{out}", "--body", "FILE.pkl")),
    "scripts/measure_avatars.py": (),
    "scripts/measure_completion.py": (("FILE",),),
    "scripts/measure_fits.py": (("--rig", "FILE"),),
    "scripts/measure_transfer.py": (("FILE", "{captures}"), ("{captures}", "FILE.whl")),
    "scripts/prepare_capture.py": (
        ("FILE", "--out", "{out}"),
        ("FILE.mp4", "--out", "{out}"),
        ("FILE.jpg", "--out", "{out}"),
        ("{image}", "--out", "{out}", "--calibration", "FILE.toml"),
        ("{image}", "--out", "{out}", "--keypoints", "FILE.json"),
        ("{image}", "--out", "{out}", "--body", "FILE.npz"),
    ),
    "scripts/prepare_data.py": (
        ("--root", "FILE", "--out", "{out}"),
        ("--root", "{captures}", "--out", "{out}", "--crop", "person", "--body", "FILE.npz", "--workers", "0"),
    ),
    "scripts/results.py": (),
    "scripts/showcase.py": (("FILE", "--out", "{out}/a.webp"),),
    "scripts/view.py": (("FILE",), ("{avatar}", "--motion", "FILE.npz"), ("{avatar}", "--body", "FILE.npz")),
}  # fmt: skip
"""Command lines; FILE is the file of a kind, with a suffix where this chooses a reader."""
PATHS = (*REPOSITORY.glob("*.py"), *REPOSITORY.glob("scripts/*.py"))
USABLE = {("scripts/check_requirements.py", "no content"), ("scripts/check_requirements.py", "empty")}
"""Cases that are no errors."""


def test_every_entry_point_is_here():
    assert USES.keys() == {path.relative_to(REPOSITORY).as_posix() for path in PATHS}


@pytest.fixture(scope="module")
def given(tmp_path_factory, body) -> dict[str, str]:
    """Usable files for the other arguments of a command."""
    folder = tmp_path_factory.mktemp("given")
    TinyCapture(image_size=(153, 128)).write(folder / "captures" / "200100", body)
    save_avatar(folder / "avatar.safetensors", dotted_avatar(body, 20))
    Image.new("RGB", (64, 96)).save(folder / "image.png")
    (folder / "metrics.json").write_text(json.dumps({"mean": {}, "subjects": {}, "settings": {}}))
    return {
        "captures": str(folder / "captures"),
        "avatar": str(folder / "avatar.safetensors"),
        "image": str(folder / "image.png"),
        "metrics": str(folder / "metrics.json"),
    }


@pytest.fixture
def same_process():
    """What entry points change in their process is undone: the launcher's environment, handlers and functions."""
    environment, logger = dict(os.environ), logging.getLogger("torch.distributed")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    functions, level = {name: getattr(launch, name) for name in LAUNCHER}, logger.level
    yield
    os.environ.clear()
    os.environ.update(environment)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name, function in functions.items():
        setattr(launch, name, function)
    logger.setLevel(level)


@pytest.mark.slow
@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize("script", [name for name, uses in USES.items() if uses])
def test_unusable_files_are_one_line(script, given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SIGNALS, "handle", lambda: None)
    monkeypatch.chdir(tmp_path)
    failures = []
    for number, use in enumerate(USES[script]):
        # Programs that have read a body or a capture before they reach the file take longer.
        for kind in KINDS if use[0].startswith("FILE") else FEW:
            write = KINDS[kind]
            place = next(part for part in use if part.startswith("FILE"))
            path = tmp_path / f"{number} {kind}{place.removeprefix('FILE')}"
            write(path)
            before = {*tmp_path.rglob("*")}
            values = given | {"out": str(tmp_path / "out")}
            arguments = [str(path) if part == place else part.format(**values) for part in use]
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            capsys.readouterr()
            status: object = 0
            try:
                runpy.run_path(str(REPOSITORY / script), run_name="__main__")
            except SystemExit as end:
                status = end.code
            except BaseException as error:
                status = repr(error)[:300]
            errors = capsys.readouterr().err
            lines = [line for line in errors.splitlines() if line.startswith("error: ")]
            left = {*tmp_path.rglob("*")} - before
            if (script, kind) not in USABLE and (status != 2 or len(lines) != 1 or "Traceback" in errors):
                failures.append((arguments, status, errors[-400:]))
            if {path.relative_to(tmp_path).parts[0] for path in left} - {"out", "workspace"}:
                failures.append((arguments, "left", sorted(map(str, left))[:5]))
    assert not failures, "\n".join(map(str, failures))
