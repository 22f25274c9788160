"""Synthetic captures on disk: names, shapes and types of MVHumanNet's files; images and fits agree."""

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
from scripts.synthetic.contact_sheet import write_contact_sheet
from scripts.synthetic.drawing import draw_views, make_scene
from scripts.synthetic.fits import LANDMARKS, body_params
from scripts.synthetic.motion import sample_motion
from scripts.synthetic.people import person_surfaces, sample_person
from scripts.synthetic.rigs import FRONT_AZIMUTH_24, make_rig
from scripts.synthetic.staging import capture_rig, draw_images, stage
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
    # A file of our own; files of others are read by the restricted unpickler.
    return pickle.loads((capture / "smpl_param" / f"{frame // 5 - 1:06d}.pkl").read_bytes())


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the files by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_names_of_files(capture, body):
    expected = {"body.json", "camera_extrinsics.json", "camera_intrinsics.json", "camera_scale.pkl"}
    for camera in CAMERAS:
        expected |= {f"images_lr/{camera}/{frame:04d}_img.jpg" for frame in OPTIONS.frames}
        expected |= {f"fmask_lr/{camera}/{frame:04d}_img_fmask.png" for frame in OPTIONS.frames}
    expected |= {"smpl_param/000010.pkl", "smpl_param/000030.pkl"}
    expected |= {f"optimized_smpl_points/{frame:04d}.{kind}" for frame in OPTIONS.frames for kind in ("json", "ply")}
    assert set(contents(capture)) == expected
    stamp = json.loads((capture / "body.json").read_text())
    assert (stamp["fingerprint"], stamp["name"], stamp["generator"]) == (body.fingerprint, body.name, GENERATOR_VERSION)


def test_formats_of_images_and_masks(capture):
    for camera in CAMERAS:
        for frame in OPTIONS.frames:
            image = Image.open(capture / "images_lr" / camera / f"{frame:04d}_img.jpg")
            mask = Image.open(capture / "fmask_lr" / camera / f"{frame:04d}_img_fmask.png")
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (76, 64))
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (76, 64))
            values = np.asarray(mask)
            assert {0, 255} < set(np.unique(values).tolist()), "edges are soft"
            assert 0.05 < (values > 127).mean() < 0.4
            # Black far from the person.
            assert np.asarray(image)[:, :3].max() < 12


def test_shapes_and_types_of_fits(capture, body):
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
    # Each tensor has a storage of its own; that of a view would add its neighbours to the file.
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
    """MVHumanNet's formula, x = R X + s t / 1000, with the numbers of the files and K scaled to the image."""
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
    # Clothes and hair cover the body, so that its vertices lie inside of the mask.
    assert mask[row[visible], column[visible]].mean() > 0.95
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - pixels[visible, 0].mean()) < 3
    assert rows.max() + 1 >= pixels[visible, 1].max() - 0.5


def test_the_same_seed_gives_the_same_bytes(capture, body, tmp_path):
    write_capture(tmp_path / "again", 3, OPTIONS, body=body)
    again = contents(tmp_path / "again")
    for name, digest in contents(capture).items():
        if name.startswith("smpl_param"):
            # Pickles of tensors name storages by their address in memory.
            assert torch.equal(read_fit(tmp_path / "again", 55)["vertices"], read_fit(capture, 55)["vertices"])
        else:
            assert again[name] == digest, name
    write_capture(tmp_path / "other", 4, OPTIONS, body=body)
    other = contents(tmp_path / "other")
    assert all(other[name] != digest for name, digest in contents(capture).items() if "images_lr" in name)


def test_a_set_resumes_and_lists_its_subjects(tmp_path, monkeypatch):
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
    # No incomplete capture remains.
    assert {path.name for path in tmp_path.iterdir()} == {"209001", "209002", "human.json"}
    write_contact_sheet(tmp_path / "sheet.png", [first, second], height=24)
    tall = Image.open(tmp_path / "sheet.png")
    monkeypatch.setattr("scripts.synthetic.contact_sheet.STACKED", 1)
    write_contact_sheet(tmp_path / "sheet.png", [first, second], height=24)
    wide = Image.open(tmp_path / "sheet.png")
    assert (tall.height, wide.height, wide.width) == (48, 24, 2 * tall.width)
    assert np.array_equal(np.asarray(tall)[24:], np.asarray(wide)[:, tall.width :])


@pytest.mark.slow
def test_holes_are_those_of_real_captures(body, tmp_path):
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


def test_fit_noise_changes_the_fits_and_not_the_images(body, tmp_path):
    options = CaptureOptions(cameras=1, frames=(5,), width=38, height=32)
    noisy = CaptureOptions(cameras=1, frames=(5,), width=38, height=32, fit_noise=0.02)
    for name, chosen in (("true", options), ("noisy", noisy)):
        write_capture(tmp_path / name, 1, chosen, body=body)
    true, perturbed = contents(tmp_path / "true"), contents(tmp_path / "noisy")
    assert all(true[name] == perturbed[name] for name in true if name.startswith(("images_lr", "fmask_lr")))
    vertices = [read_fit(tmp_path / name, 5)["vertices"] for name in ("true", "noisy")]
    distance = (vertices[0] - vertices[1]).norm(dim=-1)
    assert 0.002 < distance.mean() < 0.08


def test_ideal_cameras_and_masks_are_the_drawn_mesh(body, tmp_path):
    """Without noise, images are the colours of the mesh, and masks its coverage."""
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
    image = np.asarray(Image.open(tmp_path / "1/images_lr/22327091/0055_img.jpg"))
    mask = np.asarray(Image.open(tmp_path / "1/fmask_lr/22327091/0055_img_fmask.png"))
    assert np.abs(mask - 255 * alphas[0].numpy()).max() <= 0.5
    # Rounding to 8 bits and by the codec; with subsampled chroma the difference would be 3.
    assert np.abs(image - 255 * colors[0].numpy())[mask > 0].mean() < 1


def test_an_image_does_not_depend_on_the_other_cameras(body):
    staged = stage(3, OPTIONS, body)
    alone = replace(staged, rig=staged.rig.subset(CAMERAS[1:]))
    (_, color, mask), (_, expected, coverage) = (
        next(draw_images(alone, 155, OPTIONS)),
        list(draw_images(staged, 155, OPTIONS))[1],
    )
    assert np.array_equal(color, expected) and np.array_equal(mask, coverage)


def test_people_fill_the_images_as_in_real_captures(body):
    """In the real ring a standing person fills 83 % of the rows (focal length 1121 at 1224 x 1024, 2 m away)."""
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
    # z points down; the soles are below the feet.
    assert posed.vertices[..., 2].amax(1).sub(-person.shoes.sole).abs().max() < 1e-4
    assert posed.joints[:, 0, :2].norm(dim=-1).max() < 0.15
    standing = posed.vertices[..., 2].amin(1)
    assert -1.95 < standing.min() < -1.5
    forward = posed.joints[:, 1] - posed.joints[:, 2]  # from the right to the left hip
    azimuth = torch.rad2deg(torch.atan2(forward[:, 1], forward[:, 0])) + 90
    off = ((azimuth - FRONT_AZIMUTH_24 + 180) % 360 - 180).abs()
    assert off.median() < 60


def test_motion_stays_within_joint_limits_and_is_smooth():
    motion = sample_motion(np.random.default_rng(0))
    angles = [motion.angles(frame) for frame in range(0, 1500, 1)]
    for name, (low, high) in LIMITS.items():
        values = np.array([pose[name] for pose in angles])
        assert values.min() >= low and values.max() <= high, name
        # Degrees per 1/25 s; in the running sequence about 15.
        assert np.abs(np.diff(values)).max() < 30, name
    assert np.ptp([pose["l_hip"] for pose in angles]) > 40


def test_images_are_box_averages_of_the_mesh(body):
    """Coverage agrees with that of the mesh at 16 times the resolution, without shift or bias."""
    person = sample_person(body, 0, "train", 2)
    scene = make_scene(person, person_surfaces(person, rest_body(body, np.array(person.betas)), 0, "train"), "cpu")
    cameras = make_rig("24", 76, 64, np.random.default_rng(0)).cameras()[:1]
    with torch.no_grad():
        posed = body(body_params(body, person, person.motion, (55,), FRONT_AZIMUTH_24))[0]
        posed_scene = scene.pose(posed)
        colors, alphas = draw_views(scene, posed_scene, cameras, samples=4)
        pixels, depths = cameras.project(posed_scene.vertices)
        face_ids, _ = rasterize_mesh(16 * pixels, depths, scene.faces, 64 * 16, 76 * 16, cull=scene.cull)
    exact = torch.nn.functional.avg_pool2d((face_ids >= 0).float()[:, None], 16)[0, 0]
    assert (alphas[0] - exact).abs().max() < 0.3
    x = torch.arange(76) + 0.5
    centroids = [(image * x).sum() / image.sum() for image in (alphas[0], exact)]
    assert abs(centroids[0] - centroids[1]) < 0.02
    assert (colors <= alphas[..., None] + 1e-5).all(), "colours are premultiplied by coverage"
    assert colors[alphas > 0.99].std() > 0.05


@pytest.mark.gpu
def test_images_of_cuda_and_cpu_agree(body):
    person = sample_person(body, 0, "train", 2)
    surfaces = person_surfaces(person, rest_body(body, np.array(person.betas)), 0, "train")
    cameras = make_rig("24", 153, 128, np.random.default_rng(0)).cameras()[:2]
    with torch.no_grad():
        posed = body(body_params(body, person, person.motion, (55,), FRONT_AZIMUTH_24))[0]
        moved = replace(posed, **{f.name: getattr(posed, f.name).cuda() for f in fields(posed)})
        expected = draw_views(*_scene_and_pose(person, surfaces, posed, "cpu"), cameras)
        actual = draw_views(*_scene_and_pose(person, surfaces, moved, "cuda"), cameras.to("cuda"))
    for a, e in zip(actual, expected, strict=True):
        assert (a.cpu() - e).abs().mean() < 1 / 255


def _scene_and_pose(person, surfaces, posed, device):
    scene = make_scene(person, surfaces, torch.device(device))
    return scene, scene.pose(posed)


def test_ten_frames_are_those_of_the_paper():
    assert default_frames(10)[-2:] == (855, 905)
    assert default_frames(3) == (5, 55, 105)
