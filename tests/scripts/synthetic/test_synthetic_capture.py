"""Synthetic captures on disk: names, shapes and types of MVHumanNet's files, and that pictures and fits agree."""

import hashlib
import json
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.motion.anatomy import LIMITS
from scripts.synthetic import (
    GENERATOR_VERSION,
    PAPER_FRAMES,
    CaptureOptions,
    default_frames,
    write_capture,
    write_dataset,
)
from scripts.synthetic.capture import capture_rig, draw_pictures, stage
from scripts.synthetic.contact_sheet import write_contact_sheet
from scripts.synthetic.drawing import draw_views, make_scene
from scripts.synthetic.fits import LANDMARKS, body_params
from scripts.synthetic.motion import sample_motion
from scripts.synthetic.people import person_surfaces, sample_person
from scripts.synthetic.rigs import FRONT_AZIMUTH_24, make_rig
from scripts.synthetic.surfaces import rest_body
from smpl_renderer.mesh_rasterizer import rasterize_mesh

OPTIONS = CaptureOptions(cameras=2, frames=(55, 155), width=76, height=64, points=True)
CAMERAS = ("22327091", "22327116")


@pytest.fixture(scope="module")
def capture(body, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "209003"
    write_capture(folder, 3, OPTIONS, body=body)
    return folder


def read_fit(capture: Path, frame: int) -> dict:
    # Our own file; what strangers send goes through the restricted reader.
    return pickle.loads((capture / "smpl_param" / f"{frame // 5 - 1:06d}.pkl").read_bytes())


def contents(folder: Path) -> dict[str, str]:
    """Names of the files and digests of what is in them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_files_and_names(capture, body):
    expected = {"body.json", "camera_extrinsics.json", "camera_intrinsics.json", "camera_scale.pkl"}
    for camera in CAMERAS:
        expected |= {f"images_lr/{camera}/{frame:04d}_img.jpg" for frame in OPTIONS.frames}
        expected |= {f"fmask_lr/{camera}/{frame:04d}_img_fmask.png" for frame in OPTIONS.frames}
    expected |= {"smpl_param/000010.pkl", "smpl_param/000030.pkl"}
    expected |= {f"optimized_smpl_points/{frame:04d}.{kind}" for frame in OPTIONS.frames for kind in ("json", "ply")}
    assert set(contents(capture)) == expected
    stamp = json.loads((capture / "body.json").read_text())
    assert (stamp["fingerprint"], stamp["name"], stamp["generator"]) == (body.fingerprint, body.name, GENERATOR_VERSION)


def test_pictures(capture):
    for camera in CAMERAS:
        for frame in OPTIONS.frames:
            picture = Image.open(capture / "images_lr" / camera / f"{frame:04d}_img.jpg")
            mask = Image.open(capture / "fmask_lr" / camera / f"{frame:04d}_img_fmask.png")
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (76, 64))
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (76, 64))
            values = np.asarray(mask)
            assert {0, 255} < set(np.unique(values).tolist()), "edges are soft"
            assert 0.05 < (values > 127).mean() < 0.4
            # Far from the person the studio is blacked out.
            assert np.asarray(picture)[:, :3].max() < 12


def test_fit_records(capture, body):
    record = read_fit(capture, 55)
    shapes = {"global_orient": (1, 1, 3, 3), "body_pose": (1, 23, 3, 3), "full_pose": (1, 24, 3, 3), "betas": (1, 10)}
    shapes |= {"vertices": (1, 6890, 3), "joints": (1, 45, 3)}
    for key, shape in shapes.items():
        assert record[key].shape == shape and record[key].dtype == torch.float32 and record[key].is_contiguous(), key
    assert record["faces"].dtype == np.uint32
    np.testing.assert_array_equal(record["faces"], body.faces)
    assert record["transl"] is None and record["v_shaped"] is None
    assert set(record) == {*shapes, "faces", "transl", "v_shaped"}
    assert torch.equal(record["full_pose"][:, 1:], record["body_pose"])
    assert torch.equal(record["full_pose"][:, :1], record["global_orient"])
    assert torch.equal(record["joints"][:, 24:], record["vertices"][:, list(LANDMARKS)])
    # One tensor's storage each: a view would drag its neighbours into the file.
    assert (capture / "smpl_param" / "000010.pkl").stat().st_size < 260_000


@pytest.mark.parametrize("frame", OPTIONS.frames)
def test_refits_describe_the_same_body(capture, body, frame):
    record = json.loads((capture / "optimized_smpl_points" / f"{frame:04d}.json").read_text())
    assert np.shape(record["pose"]) == (1, 72) and np.shape(record["betas"]) == (1, 10)
    lines = (capture / "optimized_smpl_points" / f"{frame:04d}.ply").read_text().splitlines()
    swapped = np.loadtxt(lines[lines.index("end_header") + 1 :])
    raw = np.stack([swapped[:, 0], -swapped[:, 2], swapped[:, 1]], 1)
    np.testing.assert_allclose(raw, read_fit(capture, frame)["vertices"][0], atol=2e-6)


@pytest.mark.parametrize("frame", OPTIONS.frames)
@pytest.mark.parametrize("camera", CAMERAS)
def test_fits_project_into_the_masks(capture, frame, camera):
    """The files' own numbers in the one formula that is right, x = R X + s t / 1000, K scaled to the picture."""
    extrinsics = json.loads((capture / "camera_extrinsics.json").read_text())
    record = next(value for key, value in extrinsics.items() if key.endswith(f"{camera}.png"))
    scale = pickle.loads((capture / "camera_scale.pkl").read_bytes())
    intrinsics = json.loads((capture / "camera_intrinsics.json").read_text())
    assert intrinsics["dist"] == [] and scale == 100 / 65
    K = np.array(intrinsics["intrinsics"])
    vertices = read_fit(capture, frame)["vertices"][0].numpy()
    in_camera = vertices @ np.array(record["rotation"]).T + scale * np.array(record["translation"]) / 1000
    pixels = (in_camera @ K.T)[:, :2] / in_camera[:, 2:]
    pixels = (pixels + 0.5) * 0.5  # the files are half of the calibrated size; pixel centres at +0.5
    mask = np.asarray(Image.open(capture / "fmask_lr" / camera / f"{frame:04d}_img_fmask.png")) > 0
    column, row = np.floor(pixels).astype(int).T
    visible = (column >= 0) & (column < 76) & (row >= 0) & (row < 64)
    assert visible.mean() > 0.9
    # Clothes and hair cover the body, so that its points lie inside of the mask.
    assert mask[row[visible], column[visible]].mean() > 0.95
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - pixels[visible, 0].mean()) < 3
    assert rows.max() + 1 >= pixels[visible, 1].max() - 0.5


def test_same_seed_same_bytes(capture, body, tmp_path):
    write_capture(tmp_path / "again", 3, OPTIONS, body=body)
    again = contents(tmp_path / "again")
    for name, digest in contents(capture).items():
        if name.startswith("smpl_param"):
            # torch's pickles name storages by their address in memory.
            assert torch.equal(read_fit(tmp_path / "again", 55)["vertices"], read_fit(capture, 55)["vertices"])
        else:
            assert again[name] == digest, name
    write_capture(tmp_path / "other", 4, OPTIONS, body=body)
    other = contents(tmp_path / "other")
    assert all(other[name] != digest for name, digest in contents(capture).items() if "images_lr" in name)


def test_a_set_resumes_and_lists_its_people(tmp_path, monkeypatch):
    options = CaptureOptions(cameras=1, frames=(5,), width=38, height=32, smpl_param=False)
    write_dataset(tmp_path, {"209001": 1, "209002": 2}, options)
    lists = json.loads((tmp_path / "human.json").read_text())
    assert lists == {"human_id": ["209001", "209002"], "view_id_list": ["22327091"], "pose_id_list": ["0005"]}
    first, second = tmp_path / "209001", tmp_path / "209002"
    kept, broken = (first / "body.json").stat().st_mtime_ns, second / "body.json"
    broken.unlink()
    write_dataset(tmp_path, {"209001": 1, "209002": 2}, options, spelling="short")
    assert (first / "body.json").stat().st_mtime_ns == kept
    assert broken.is_file()
    assert set(json.loads((tmp_path / "human.json").read_text())) == {"human_id", "view_id", "pose_id"}
    # Nothing half-written stays behind.
    assert {path.name for path in tmp_path.iterdir()} == {"209001", "209002", "human.json"}
    write_contact_sheet(tmp_path / "sheet.png", [first, second], height=24)
    tall = Image.open(tmp_path / "sheet.png")
    monkeypatch.setattr("scripts.synthetic.contact_sheet.STACKED", 1)
    write_contact_sheet(tmp_path / "sheet.png", [first, second], height=24)
    wide = Image.open(tmp_path / "sheet.png")
    assert (tall.height, wide.height, wide.width) == (48, 24, 2 * tall.width)
    assert np.array_equal(np.asarray(tall)[24:], np.asarray(wide)[:, tall.width :])


def test_holes(body, tmp_path):
    frames = (5, 10, 15, 20, 25)
    options = CaptureOptions(cameras=3, frames=frames, width=38, height=32, points=True, holes=True)
    folder = tmp_path / "209001"
    write_capture(folder, 1, options, body=body)
    assert {path.name for path in (folder / "smpl_param").iterdir()} == {"000000.pkl", "000002.pkl", "000003.pkl"}
    refits = folder / "optimized_smpl_points"
    for suffix in ("json", "ply"):
        assert {path.stem for path in refits.glob(f"*.{suffix}")} == {"0005", "0010", "0015", "0020"}
    extrinsics = json.loads((folder / "camera_extrinsics.json").read_text())
    assert len(extrinsics) == 3 and len(list((folder / "images_lr").iterdir())) == 2
    masks = folder / "fmask_lr/22327091"
    assert [Image.open(path).size for path in sorted(masks.iterdir())] == [(50, 42), *[(38, 32)] * 4]


def test_noise_moves_the_fits_and_not_the_pictures(body, tmp_path):
    options = CaptureOptions(cameras=1, frames=(5,), width=38, height=32)
    noisy = CaptureOptions(cameras=1, frames=(5,), width=38, height=32, fit_noise=0.02)
    for name, chosen in (("true", options), ("noisy", noisy)):
        write_capture(tmp_path / name, 1, chosen, body=body)
    true, shaken = contents(tmp_path / "true"), contents(tmp_path / "noisy")
    assert all(true[name] == shaken[name] for name in true if name.startswith(("images_lr", "fmask_lr")))
    vertices = [read_fit(tmp_path / name, 5)["vertices"] for name in ("true", "noisy")]
    distance = (vertices[0] - vertices[1]).norm(dim=-1)
    assert 0.002 < distance.mean() < 0.08


def test_ideal_cameras_and_masks_give_the_truth(body, tmp_path):
    """Without noise, pictures are the mesh's colours, and masks its coverage: what evaluation could compare with."""
    options = CaptureOptions(
        cameras=1,
        frames=(55,),
        width=76,
        height=64,
        background="black",
        camera_noise=False,
        soft_masks=False,
        quality=100,
    )
    write_capture(tmp_path / "1", 3, options, body=body)
    staged = stage(3, options, body)
    colors, alphas = draw_views(staged.scene, staged.scene.pose(staged.posed[0]), staged.rig.cameras())
    picture = np.asarray(Image.open(tmp_path / "1/images_lr/22327091/0055_img.jpg"))
    mask = np.asarray(Image.open(tmp_path / "1/fmask_lr/22327091/0055_img_fmask.png"))
    assert np.abs(mask - 255 * alphas[0].numpy()).max() <= 0.5
    # Rounded twice, to 8 bit and by the codec; with colours at half the resolution it would be 3.
    assert np.abs(picture - 255 * colors[0].numpy())[mask > 0].mean() < 1


def test_a_camera_s_picture_is_the_same_whoever_else_is_drawn(body):
    staged = stage(3, OPTIONS, body)
    alone = replace(staged, rig=staged.rig.subset(CAMERAS[1:]))
    (_, color, mask), (_, expected, coverage) = (
        next(draw_pictures(alone, 155, OPTIONS)),
        list(draw_pictures(staged, 155, OPTIONS))[1],
    )
    assert np.array_equal(color, expected) and np.array_equal(mask, coverage)


def test_people_are_in_the_picture_as_in_real_captures(body):
    """The real ring shows a standing person in 83 % of the rows (a focal length of 1121 at 1224 x 1024, 2 m away)."""
    cut, rows = [], []
    for index in range(1, 9):
        options = CaptureOptions(frames=PAPER_FRAMES[::3])
        person = sample_person(body, options.seed, options.split, index)
        rig = capture_rig(index, options)
        with torch.no_grad():
            posed = body(body_params(body, person, person.motion, options.frames, rig.front_azimuth))
            pixels, depths = rig.cameras().project(
                posed.vertices[:, None].expand(-1, 16, -1, -1).reshape(-1, 16, 6890, 3)
            )
        assert depths.min() > 0.8
        outside = (pixels < 0) | (pixels > torch.tensor([612.0, 512.0]))
        cut.append(outside.any(-1).float().mean(-1))
        rows.append((pixels[..., 1].amax(-1) - pixels[..., 1].amin(-1)) / 512)
    cut, rows = torch.stack(cut), torch.stack(rows)
    assert cut.mean() < 0.02 and cut.max() < 0.3
    assert 0.7 < rows.median() < 0.9


def test_people_stand_on_the_floor_and_face_the_first_camera(body):
    person = sample_person(body, 0, "train", 7)
    frames = tuple(range(5, 1800, 60))
    with torch.no_grad():
        posed = body(body_params(body, person, person.motion, frames, FRONT_AZIMUTH_24))
    # z points down; soles are under the feet.
    assert posed.vertices[..., 2].amax(1).sub(-person.shoes.sole).abs().max() < 1e-4
    assert posed.joints[:, 0, :2].norm(dim=-1).max() < 0.15
    standing = posed.vertices[..., 2].amin(1)
    assert -1.95 < standing.min() < -1.5
    forward = posed.joints[:, 1] - posed.joints[:, 2]  # from the right to the left hip
    azimuth = torch.rad2deg(torch.atan2(forward[:, 1], forward[:, 0])) + 90
    off = ((azimuth - FRONT_AZIMUTH_24 + 180) % 360 - 180).abs()
    assert off.median() < 60


def test_motion_keeps_to_joint_limits_and_is_smooth():
    motion = sample_motion(np.random.default_rng(0))
    angles = [motion.angles(frame) for frame in range(0, 1500, 1)]
    for name, (low, high) in LIMITS.items():
        values = np.array([pose[name] for pose in angles])
        assert values.min() >= low and values.max() <= high, name
        # Degrees in a 25th of a second: a joint in a run turns by some 15.
        assert np.abs(np.diff(values)).max() < 30, name
    assert np.ptp([pose["l_hip"] for pose in angles]) > 40


def test_pictures_are_box_averages_of_the_mesh(body):
    """Coverage agrees with the same mesh drawn at 16 times the resolution: no shift, no bias."""
    person = sample_person(body, 0, "train", 2)
    scene = make_scene(person, person_surfaces(person, rest_body(body, np.array(person.betas)), 0, "train"), "cpu")
    cameras = make_rig("24", 76, 64, np.random.default_rng(0)).cameras()[:1]
    with torch.no_grad():
        posed = body(body_params(body, person, person.motion, (55,), FRONT_AZIMUTH_24))[0]
        moment = scene.pose(posed)
        colors, alphas = draw_views(scene, moment, cameras, samples=4)
        pixels, depths = cameras.project(moment.vertices)
        face_ids, _ = rasterize_mesh(16 * pixels, depths, scene.faces, 64 * 16, 76 * 16, cull=scene.cull)
    exact = torch.nn.functional.avg_pool2d((face_ids >= 0).float()[:, None], 16)[0, 0]
    assert (alphas[0] - exact).abs().max() < 0.3
    x = torch.arange(76) + 0.5
    centroids = [(image * x).sum() / image.sum() for image in (alphas[0], exact)]
    assert abs(centroids[0] - centroids[1]) < 0.02
    assert (colors <= alphas[..., None] + 1e-5).all(), "colours are premultiplied by coverage"
    assert colors[alphas > 0.99].std() > 0.05


@pytest.mark.gpu
def test_cuda_pictures_agree(body):
    person = sample_person(body, 0, "train", 2)
    surfaces = person_surfaces(person, rest_body(body, np.array(person.betas)), 0, "train")
    cameras = make_rig("24", 153, 128, np.random.default_rng(0)).cameras()[:2]
    with torch.no_grad():
        posed = body(body_params(body, person, person.motion, (55,), FRONT_AZIMUTH_24))[0]
        moved = replace(posed, **{f.name: getattr(posed, f.name).cuda() for f in fields(posed)})
        expected = draw_views(*_scene_and_moment(person, surfaces, posed, "cpu"), cameras)
        actual = draw_views(*_scene_and_moment(person, surfaces, moved, "cuda"), cameras.to("cuda"))
    for a, e in zip(actual, expected, strict=True):
        assert (a.cpu() - e).abs().mean() < 1 / 255


def _scene_and_moment(person, surfaces, posed, device):
    scene = make_scene(person, surfaces, torch.device(device))
    return scene, scene.pose(posed)


def test_default_frames():
    assert default_frames(10)[-2:] == (855, 905)
    assert default_frames(3) == (5, 55, 105)
