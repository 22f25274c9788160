"""Packed copies: what the loader reads from them is what it reads from the originals."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch
from forked_script import run_script
from PIL import Image
from tiny_capture import TinyCapture

from core.data.capture import Capture
from core.data.dataset import HumanDataset
from core.data.human_list import HumanEntry, find_subjects
from core.data.packing import pack_dataset
from core.data.readers import open_capture
from core.options import DataOptions
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

FRAMES = (5, 10, 15, 20)


@pytest.fixture(scope="module")
def root(tmp_path_factory, body):
    """Two subjects before a striped wall, with a file size that is no multiple of the packed one for the second."""
    folder = tmp_path_factory.mktemp("captures")
    for subject, size in (("209001", (306, 256)), ("209002", (350, 293))):
        tiny = TinyCapture(image_size=size, frames=FRAMES, num_cameras=5)
        tiny.write(folder / subject, body)
        for file in folder.glob(f"{subject}/images_lr/*/*.jpg"):
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[...] = 60 + 120 * (np.arange(size[0]) // 24 % 2)[None, :, None]
            Image.fromarray(pixels).save(file, quality=97, subsampling=0)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["center", "person"])
def test_samples_of_a_packed_copy_are_those_of_the_original(root, body, crop, tmp_path):
    pack_dataset(find_subjects(root), tmp_path / "packed", height=128)
    options = DataOptions(crop=crop, image_size=64, input_frames=3, target_frames=3, novel_frames=1, target_views=5)
    original, packed = (HumanDataset(options, find_subjects(x), body=body) for x in (root, tmp_path / "packed"))
    for index in range(2):
        a, b = original.sample(3, index), packed.sample(3, index)
        assert a.names == b.names
        for x, y in ((a.inputs, b.inputs), (a.targets, b.targets)):
            assert torch.equal(x.cameras.Ks, y.cameras.Ks) and torch.equal(x.cameras.viewmats, y.cameras.viewmats)
            assert torch.equal(x.body.transl, y.body.transl)
            # Bytes: two reductions instead of one soften edges; a shift by half a pixel would give 5 and more.
            assert (x.images.float() - y.images.float()).abs().mean() < 2
            assert (x.alphas.float() - y.alphas.float()).abs().mean() < 2
            inside = (x.alphas == 255).all(0).all(0)
            assert not inside.any() or (x.images.float() - y.images.float()).abs()[..., inside[0]].mean() < 4


def test_no_background_reaches_the_border(root, body, tmp_path):
    """Composed on white, a packed image is the mean of the composed original."""
    pack_dataset(find_subjects(root)[:1], tmp_path / "packed", height=128, quality=100)
    original, packed = open_capture(root / "209001"), open_capture(tmp_path / "packed" / "209001")
    camera, frame = original.camera_names[0], FRAMES[0]

    def composed(capture: Capture) -> np.ndarray:
        alpha = capture.mask(camera, frame)[..., None] / 255
        return alpha * capture.image(camera, frame) + (1 - alpha) * 255

    expected = composed(original)[:256, :306].reshape(128, 2, 153, 2, 3).mean((1, 3))
    assert np.abs(composed(packed) - expected).max() < 6  # JPEG


def test_only_what_the_list_names_and_what_has_a_fit_is_packed(root, body, tmp_path):
    copy = tmp_path / "captures" / "209001"
    shutil.copytree(root / "209001", copy)
    (copy / "smpl_param" / "000001.pkl").unlink()
    names = open_capture(copy).camera_names
    (copy / "images_lr" / names[1] / "0015_img.jpg").write_bytes(b"no image")
    entry = HumanEntry(copy, views=tuple(names[:3]), poses=(5, 10, 15))
    pack_dataset([entry], tmp_path / "packed", height=64)
    packed = open_capture(tmp_path / "packed" / "209001")
    assert packed.camera_names == names[:3]
    assert packed.frames_of(names[0]) == [5, 15] and packed.frames_of(names[1]) == [5]
    assert sorted(packed.fits) == [5, 15]
    assert json.loads((tmp_path / "packed" / "human.json").read_text()) == {
        "human_id": ["209001"],
        "view_id_list": names[:3],
        "pose_id_list": ["0005", "0010", "0015"],
    }


@pytest.mark.slow
def test_the_script_goes_on_and_never_touches_the_originals(root, tmp_path):
    script = ["scripts/prepare_data.py", "--root", root, "--height", "64"]
    done = run_script(*script, "--out", tmp_path, "--workers", "0")
    assert done.returncode == 0 and "2 subjects in" in done.stderr, done.stderr
    assert [entry.subject for entry in find_subjects(tmp_path)] == ["209001", "209002"]
    (kept,) = (tmp_path / "209001" / "capture.json",)
    before = kept.stat().st_mtime_ns
    pack_dataset(find_subjects(root), tmp_path, height=64)
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds the originals"):
        pack_dataset(find_subjects(root), root)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_capture_keeps_no_other_from_being_packed(root, workers, tmp_path, caplog):
    originals, out = tmp_path / "captures", tmp_path / "packed"
    for name in ("209001", "209003", "209004"):
        shutil.copytree(root / "209001", originals / name)
    (originals / "209001" / "camera_scale.pkl").unlink()
    (originals / "209003" / "camera_extrinsics.json").write_text("{")
    with pytest.raises(InputError, match=r"2 of 3 captures could not be packed.*: 209001, 209003; correct them"):
        pack_dataset(find_subjects(originals), out, height=64, workers=workers)
    assert f"not packed: {originals / '209003'}" in caplog.text and "camera_extrinsics.json" in caplog.text
    assert [entry.subject for entry in find_subjects(out)] == ["209004"]
    assert json.loads((out / "human.json").read_text())["human_id"] == ["209004"]

    for name in ("209001", "209003"):
        shutil.copytree(root / "209001", originals / name, dirs_exist_ok=True)
    kept = (out / "209004" / "capture.json").stat().st_mtime_ns
    pack_dataset([HumanEntry(originals / name) for name in ("209001", "209003", "209004")], out, height=64)
    assert json.loads((out / "human.json").read_text())["human_id"] == ["209001", "209003", "209004"]
    assert (out / "209004" / "capture.json").stat().st_mtime_ns == kept


def test_what_is_no_fault_of_a_capture_ends_packing_at_once(root, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.data.packing.pack_subject", full)
    with pytest.raises(OSError, match="No space left"):
        pack_dataset(find_subjects(root), tmp_path / "packed")
    assert not (tmp_path / "packed" / "human.json").exists()


def test_copies_of_other_settings_do_not_mix(root, tmp_path):
    entries = [HumanEntry(entry.path, views=None, poses=(5,)) for entry in find_subjects(root)]
    pack_dataset(entries[:1], tmp_path, height=64)
    for name, value in (("height", 32), ("quality", 90), ("every", 2)):
        with pytest.raises(InputError, match=f"made with {name} [0-9]+, not {value}; use the same again"):
            pack_dataset(entries, tmp_path, **{"height": 64, name: value})
    with pytest.raises(InputError, match="made with poses 5, not all"):
        pack_dataset([HumanEntry(entry.path) for entry in entries], tmp_path, height=64)
    pack_dataset(entries, tmp_path, height=64)  # the same: the second is added
    assert [entry.subject for entry in find_subjects(tmp_path)] == ["209001", "209002"]
    (tmp_path / "packing.json").unlink()
    with pytest.raises(InputError, match=r"holds 209001, but no packing\.json"):
        pack_dataset(entries, tmp_path, height=64)


@pytest.mark.usefixtures("warm_python")
def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Killed outright, it leaves none that waits for work."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from core.utils.processes import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), initializer=end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment) as killed:
        worker = psutil.Process(int(killed.stdout.readline()))
        assert killed.wait() == -signal.SIGKILL
        _, left = psutil.wait_procs([worker], timeout=20)
        for process in left:
            process.kill()
    assert not left


@pytest.mark.usefixtures("warm_python")
def test_a_worker_that_is_killed_ends_packing_with_a_message(root, tmp_path, monkeypatch):
    monkeypatch.setattr("core.data.packing.pack_subject", _killed)
    with pytest.raises(InputError, match="was killed, probably because memory is exhausted; use fewer --workers"):
        pack_dataset(find_subjects(root), tmp_path / "packed", workers=1)


def _killed(entry, **settings):
    os.kill(os.getpid(), signal.SIGKILL)
