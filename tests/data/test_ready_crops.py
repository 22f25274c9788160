"""Ready crops: samples drawn from them are those of the originals, to the bit; reports of what is missing or stale."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_capture import FRONT_LEFT_BACK_RIGHT, TinyCapture

from core.data import ready_crops
from core.data.dataset import HumanDataset, load_frames
from core.data.human_list import HumanEntry, find_subjects
from core.data.packing import pack_crops, pack_dataset
from core.data.readers import open_capture
from core.options import DataOptions, TrainOptions
from core.training.loading import training_batches
from core.types.frames import Sample
from smpl_renderer.errors import InputError

FRAMES = (5, 10, 15, 20, 25)
OPTIONS = DataOptions(
    crop="person", image_size=48, input_frames=3, target_frames=3, novel_frames=1, target_views=5, verify=False
)


@pytest.fixture(scope="module")
def root(tmp_path_factory, body):
    """Two subjects of six cameras with noise as images; the second's files are of another size."""
    folder = tmp_path_factory.mktemp("captures")
    rng = np.random.default_rng(0)
    for subject, size in (("209001", (306, 256)), ("209002", (350, 293))):
        TinyCapture(image_size=size, frames=FRAMES, num_cameras=6).write(folder / subject, body)
        for file in folder.glob(f"{subject}/images_lr/*/*.jpg"):
            Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def packed(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "crops"
    pack_crops(find_subjects(root), out, "person", 48)
    return out


def assert_equal(a: Sample, b: Sample) -> None:
    assert a.names == b.names
    tensors = [[], []]
    for sample, collected in zip((a, b), tensors):
        for frames in (sample.inputs, sample.targets):
            frames.map(collected.append)
    assert all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["person", "center"])
def test_samples_are_those_of_the_originals_to_the_bit(root, body, crop, tmp_path):
    pack_crops(find_subjects(root), tmp_path / "packed", crop, 48)
    options = replace(OPTIONS, crop=crop)
    original, ready = (HumanDataset(options, find_subjects(x), body=body) for x in (root, tmp_path / "packed"))
    for epoch, index in ((0, 0), (3, 0), (3, 1)):
        assert_equal(original.sample(epoch, index), ready.sample(epoch, index))
    assert ready._capture(0).ready is not None


@pytest.mark.slow
def test_nothing_is_decoded_or_posed(packed, body, monkeypatch):
    dataset = HumanDataset(OPTIONS, find_subjects(packed), body=body)
    monkeypatch.setattr("core.data.dataset.read_window", None)
    monkeypatch.setattr("smpl_renderer.body_model.BodyModel.forward", None)
    assert dataset.sample(0, 1).inputs.images.float().std() > 0


def test_holes_stay_holes(root, body, tmp_path):
    copy = tmp_path / "captures" / "209001"
    shutil.copytree(root / "209001", copy)
    names = open_capture(copy).camera_names
    (copy / "images_lr" / names[1] / "0010_img.jpg").unlink()
    (copy / "images_lr" / names[2] / "0015_img.jpg").write_bytes(b"no image")
    (copy / "smpl_param" / "000004.pkl").unlink()
    pack_crops([HumanEntry(copy)], tmp_path / "packed", "person", 48)
    ready = open_capture(tmp_path / "packed" / "209001", ready=("person", 48))
    assert ready.frame_ids == [5, 10, 15, 20] and ready.frames_of(names[1]) == [5, 15, 20]
    assert ready.complete_frames(names[:3]) == [5, 20]
    load_frames(ready, body, [5, 20], names[:3], names[0], 48, "person")
    for frame, camera in ((10, names[1]), (15, names[2]), (25, names[0]), (5, "77777777")):
        with pytest.raises(InputError, match=r"has no frame|camera 77777777 is not in"):
            load_frames(ready, body, [5, frame], [camera], names[0], 48, "person")


def test_views_and_poses_of_the_list(root, body, tmp_path):
    names = open_capture(root / "209001").camera_names
    pack_crops([HumanEntry(root / "209001", tuple(names[:5]), (5, 10, 15, 20))], tmp_path, "person", 32, every=2)
    ready = open_capture(tmp_path / "209001", ready=("person", 32))
    assert ready.camera_names == names[:5] and ready.frame_ids == [5, 15]
    assert json.loads((tmp_path / "human.json").read_text())["view_id_list"] == names[:5]


def load(folder, body):
    return load_frames(open_capture(folder), body, [5], list(FRONT_LEFT_BACK_RIGHT), "22327091", 64, "person")


@pytest.mark.slow
def test_other_sizes_are_read_from_pictures_if_there_are_any(root, body, packed, tmp_path):
    with pytest.raises(InputError, match="holds no images but ready crops, person at 48 px; train with"):
        HumanDataset(replace(OPTIONS, image_size=64), find_subjects(packed), body=body).sample(0, 0)
    with pytest.raises(InputError, match="holds no images but ready crops"):
        open_capture(packed / "209001")  # as an evaluation opens it

    pack_dataset(find_subjects(root), tmp_path, height=128)
    before = load(tmp_path / "209001", body)
    pack_crops(find_subjects(root), tmp_path, "person", 48)
    pack_crops(find_subjects(root), tmp_path, "person", 32)
    for size in (32, 48, 64):
        dataset = HumanDataset(replace(OPTIONS, image_size=size), find_subjects(tmp_path), body=body)
        assert (dataset._capture(0).ready is None) == (size == 64)
        assert dataset[0].inputs.images.shape[-1] == size
    after = load(tmp_path / "209001", body)
    assert torch.equal(before.images, after.images)


def test_going_on_packs_what_is_missing(root, packed, tmp_path, warm_python):
    shutil.copytree(packed, tmp_path / "packed")
    out = tmp_path / "packed"
    first, second = (ready_crops.crops_path(out / name, "person", 48) for name in ("209001", "209002"))
    second.with_suffix(".npz").unlink()  # as if it had been killed before the last file
    second.write_bytes(b"half")
    kept = first.stat().st_mtime_ns
    pack_crops(find_subjects(root), out, "person", 48, workers=2)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == ready_crops.crops_path(packed / "209002", "person", 48).read_bytes()
    second.unlink()  # as an error message says
    pack_crops(find_subjects(root), out, "person", 48)
    assert first.stat().st_mtime_ns == kept and second.is_file()
    with pytest.raises(InputError, match="made with every 1, not 2"):
        pack_crops(find_subjects(root), out, "person", 48, every=2)


@pytest.mark.slow
def test_pictures_packed_later_leave_crops_where_they_are(root, body, tmp_path):
    pack_dataset(find_subjects(root), tmp_path, height=64)
    shutil.rmtree(tmp_path / "209002")  # as if it had been broken then
    pack_crops(find_subjects(root), tmp_path, "person", 48)
    kept = ready_crops.crops_path(tmp_path / "209002", "person", 48).stat().st_mtime_ns
    pack_dataset(find_subjects(root), tmp_path, height=64)
    assert ready_crops.crops_path(tmp_path / "209002", "person", 48).stat().st_mtime_ns == kept
    assert open_capture(tmp_path / "209002", ready=("person", 48)).ready is not None
    assert open_capture(tmp_path / "209002").frame_ids == list(FRAMES)


def test_nothing_is_added_to_a_copy_of_other_cameras(root, tmp_path, caplog):
    shutil.copytree(root, tmp_path / "captures")
    entries, out = find_subjects(tmp_path / "captures"), tmp_path / "packed"
    entries = [replace(entry, poses=FRAMES[:1]) for entry in entries]
    pack_crops(entries, out, "person", 32)
    extrinsics = tmp_path / "captures" / "209001" / "camera_extrinsics.json"
    records = json.loads(extrinsics.read_text())
    records[next(iter(records))]["translation"][0] += 1e-3
    extrinsics.write_text(json.dumps(records))
    with pytest.raises(InputError, match=r"1 of 2 captures could not be packed.*209001"):
        pack_crops(entries, out, "person", 48)
    assert f"{out / '209001'}: the camera" in caplog.text and "packed from another calibration" in caplog.text
    assert not ready_crops.has_ready_crops(out / "209001", "person", 48)
    assert ready_crops.has_ready_crops(out / "209001", "person", 32)
    shutil.rmtree(out / "209001")
    pack_crops(entries, out, "person", 48)
    assert ready_crops.has_ready_crops(out / "209001", "person", 48)


@pytest.mark.slow
def test_one_folder_has_one_list(root, tmp_path):
    entries = find_subjects(root)
    pack_crops(entries, tmp_path, "person", 32)
    with pytest.raises(InputError, match=r"made with poses all, not 5, 10; use the same again"):
        pack_crops([replace(entry, poses=(5, 10)) for entry in entries], tmp_path, "person", 48)
    pack_crops(entries, tmp_path, "person", 48, every=2)


def test_captures_without_a_fit_are_named(root, tmp_path, caplog):
    shutil.copytree(root, tmp_path / "captures")
    shutil.rmtree(tmp_path / "captures" / "209001" / "smpl_param")
    for pack in (partial(pack_crops, crop="person", size=48), partial(pack_dataset, height=64)):
        out = tmp_path / pack.func.__name__
        with pytest.raises(InputError, match=r"1 of 2 captures could not be packed.*209001"):
            pack(find_subjects(tmp_path / "captures"), out, verify=False)
        assert "209001: no fits: neither" in caplog.text
        assert [entry.subject for entry in find_subjects(out)] == ["209002"] and not (out / "209001").exists()
        caplog.clear()
    with pytest.raises(InputError, match="1 of 1"):
        pack_crops([HumanEntry(root / "209001", poses=(6,))], tmp_path / "packed", "person", 48)
    assert "no frame that the human list names has both" in caplog.text


def test_folders_of_others_are_not_added_to(root, tmp_path):
    shutil.copytree(root, tmp_path / "others")
    with pytest.raises(InputError, match=r"holds 209001, but no packing_person_48\.json with its settings"):
        pack_crops(find_subjects(root), tmp_path / "others", "person", 48)
    with pytest.raises(InputError, match="209001, 209002: in more than one folder"):
        pack_crops(find_subjects(root) * 2, tmp_path / "packed", "person", 48)
    with pytest.raises(InputError, match="different views or poses"):
        entries = [HumanEntry(root / "209001"), HumanEntry(root / "209002", poses=(5,))]
        pack_crops(entries, tmp_path / "packed", "person", 48)


def test_broken_captures_are_named_at_the_end(root, tmp_path, caplog):
    shutil.copytree(root, tmp_path / "captures")
    (tmp_path / "captures/209001/camera_scale.pkl").unlink()
    with pytest.raises(InputError, match=r"1 of 2 captures could not be packed.*209001"):
        pack_crops(find_subjects(tmp_path / "captures"), tmp_path / "packed", "person", 48)
    assert [entry.subject for entry in find_subjects(tmp_path / "packed")] == ["209002"]


@pytest.mark.parametrize("pack", [partial(pack_crops, crop="person", size=48), partial(pack_dataset, height=64)])
def test_a_capture_without_any_usable_image_is_not_packed(root, tmp_path, caplog, pack):
    shutil.copytree(root / "209001", tmp_path / "209001")
    for image in (tmp_path / "209001" / "images_lr").rglob("*.jpg"):
        image.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"1 of 1 captures could not be packed.*209001"):
        pack([HumanEntry(tmp_path / "209001")], tmp_path / "packed", verify=False)
    assert "209001: no image can be used" in caplog.text and not (tmp_path / "packed" / "209001").exists()


def test_stale_and_damaged_crops_are_refused(packed, body, tmp_path, monkeypatch):
    shutil.copytree(packed, tmp_path / "packed")
    folder = tmp_path / "packed" / "209001"
    images = ready_crops.crops_path(folder, "person", 48)

    def read():
        load_frames(
            open_capture(folder, ready=("person", 48)), body, [25], [*FRONT_LEFT_BACK_RIGHT], "22327091", 48, "person"
        )

    read()
    monkeypatch.setattr(ready_crops, "PERSON_MARGIN", 0.4)
    with pytest.raises(InputError, match=r"person_48\.npz: made as version 1 with margin .*, now it is 1 with 0\.4"):
        read()
    monkeypatch.undo()
    whole = images.read_bytes()
    images.write_bytes(whole[:-48])
    with pytest.raises(InputError, match=r"person_48\.npz: cannot be read"):
        read()
    np.save(images, np.zeros((1, 2, 4, 48, 48), np.uint8))
    with pytest.raises(InputError, match=r"does not belong to person_48\.npz"):
        read()
    images.write_bytes(whole)
    record = images.with_suffix(".npz")
    record.write_bytes(record.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"person_48\.npz: cannot be read"):
        read()


def test_crops_that_go_or_shrink_while_they_are_read(packed, body, tmp_path):
    shutil.copytree(packed / "209001", tmp_path / "209001")
    capture = open_capture(tmp_path / "209001", ready=("person", 48))
    images = capture.ready.path
    whole = images.read_bytes()
    for change, message in (
        (lambda: images.write_bytes(whole[:-48]), "is truncated; pack the capture"),
        (images.unlink, "cannot be read"),
    ):
        load_frames(capture, body, [25], [capture.camera_names[-1]], "22327091", 48, "person")
        change()
        with pytest.raises(InputError, match=rf"person_48\.npy: {message}"):
            load_frames(capture, body, [25], [capture.camera_names[-1]], "22327091", 48, "person")
        images.write_bytes(whole)


def test_no_record_describes_other_images(packed, tmp_path):
    """Killed while it writes images anew, it leaves no record of the old ones."""
    shutil.copytree(packed / "209001", tmp_path / "209001")
    ready = open_capture(tmp_path / "209001", ready=("person", 48)).ready

    def killed():
        assert not ready.path.with_suffix(".npz").exists()
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        ready_crops.write_ready_crops(ready.path, "person", 48, ready.cameras, ready.frames, ready.fits, None, killed())
    assert not ready_crops.has_ready_crops(tmp_path / "209001", "person", 48)


def test_crops_of_another_body(packed, body):
    capture = open_capture(packed / "209001", ready=("person", 48))
    other = replace(capture.ready, body="0123")
    with pytest.raises(InputError, match=f"made with the body 0123, not with {body.name}"):
        other.fit(5, body)
    with pytest.raises(ValueError, match=r"person_48\.npy holds no crop `person` of 64 pixels"):
        load_frames(capture, body, [5], ["22327091"], "22327091", 64, "person")


def test_batches_of_workers_are_those_of_this_process(packed, body):
    dataset = HumanDataset(OPTIONS, find_subjects(packed), body=body)
    here, there = (
        training_batches(
            dataset, TrainOptions(data=replace(OPTIONS, num_workers=n), batch_size=2), 0, 1, start=3, pin_memory=False
        )
        for n in (0, 2)
    )
    for _ in range(3):
        a, b = next(here), next(there)
        assert_equal(a, b)
        assert b.inputs.images.shape[:3] == (2, 3, 4) and b.inputs.body.transl.dtype == torch.float32
