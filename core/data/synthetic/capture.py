"""Captures of synthetic people on disk, in MVHumanNet's layout."""

import functools
import json
import logging
import multiprocessing
import pickle
import shutil
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor
from tqdm import tqdm

from core.data.synthetic.drawing import Scene, draw_views, make_scene
from core.data.synthetic.motion import Motion, joint_rotations
from core.data.synthetic.people import Person, person_surfaces, sample_person
from core.data.synthetic.rigs import Rig, make_rig
from core.data.synthetic.seeding import random_stream
from core.data.synthetic.surfaces import rest_body
from smpl_renderer.body_model import STANDIN_BODY, BodyModel, load_body
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams, PosedBody

logger = logging.getLogger(__name__)

GENERATOR_VERSION = "1"
"""Changes whenever the same seed gives other pictures. Captures and the checkpoints trained on them carry it."""

PAPER_FRAMES = (55, 155, 305, 455, 505, 705, 755, 805, 855, 905)
"""The ten moments of the paper's evaluation: eight observed ones and, last, two novel ones."""
FIRST_SUBJECT = 209_000
"""Synthetic people are numbered outside of the real range (100001-104780, 200001-204367)."""
MAX_UNWRITTEN = 64
"""Pictures that may wait for being written: a GPU draws faster than JPEGs are packed, and memory would fill up."""
# `joints[24:]` of a `smpl_param` file are these vertices.
LANDMARKS = (
    *(332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787, 2746, 2319, 2445, 2556, 2673),
    *(6191, 5782, 5905, 6016, 6133),
)


@dataclass(frozen=True)
class CaptureOptions:
    """How captures are made; equal options and seeds give equal captures."""

    seed: int = 0
    split: str = "train"
    """People of different splits share nothing, whatever their seeds."""
    rig: str = "24"
    """`24`: one ring of 16 cameras; `48`: three rings of 16."""
    cameras: int | None = None
    """Fewer cameras than the rig has: the four input views first."""
    frames: tuple[int, ...] = PAPER_FRAMES
    """Image ids, multiples of 5."""
    width: int = 612
    height: int = 512
    """Size of the picture files; calibration is stated for twice that."""
    samples: int = 2
    """Samples along each side of a pixel."""
    quality: int = 92
    """Of the JPEG files."""
    compact: bool = False
    """Spend more time on packing the masks."""
    fit_noise: float = 0.0
    """Deviation of the noise on the stored fits, in radians; metres and shape get a share of it."""
    smpl_param: bool = True
    """Write `smpl_param/`."""
    points: bool = False
    """Write `optimized_smpl_points/*.ply` beside the `.json`."""
    holes: bool = False
    """Leave out and damage what real captures lack: fits, a camera, a mask's size."""
    background: bool = True
    """A studio behind the person, blacked out farther away; else black."""


def default_frames(count: int) -> tuple[int, ...]:
    """Image ids of a capture of some moments: the paper's for ten, else every 50 from 5 on."""
    return PAPER_FRAMES if count == len(PAPER_FRAMES) else tuple(5 + 50 * i for i in range(count))


def write_dataset(
    root: Path,
    subjects: dict[str, int],
    options: CaptureOptions,
    *,
    device: str = "cpu",
    workers: int = 0,
    body_file: Path = STANDIN_BODY,
    spelling: str = "list",
) -> None:
    """Write captures of several people and `human.json`; captures that are there already stay.

    Args:
        root: Folder of the set.
        subjects: Subject id -> index of the person that it shows.
        device: Where pictures are drawn: `cpu`, `cuda`.
        workers: Processes that each write whole captures; 0 uses this one.
        body_file: The body model; the stand-in by default.
        spelling: Keys of `human.json`: `list` (`view_id_list`, `pose_id_list`) or `short` (`view_id`, `pose_id`).
    """
    root.mkdir(parents=True, exist_ok=True)
    body = load_body(body_file)
    todo = {name: i for name, i in subjects.items() if not is_current(root / name, i, options, body)}
    if len(todo) < len(subjects):
        logger.info("%s: %d of %d captures are there already", root, len(subjects) - len(todo), len(subjects))
    with tqdm(total=len(todo), desc="synthetic captures", unit="person", disable=not todo) as bar:
        if workers == 0:
            for name, index in todo.items():
                write_capture(root / name, index, options, body=body, device=device)
                bar.update()
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context) as pool:
                jobs = [pool.submit(_write_one, root / name, i, options, body_file, device) for name, i in todo.items()]
                for job in as_completed(jobs):
                    job.result()
                    bar.update()
    # All that are there: a set may be made in parts.
    _write_human_list(root, sorted(stamp.parent.name for stamp in root.glob("[!.]*/body.json")), options, spelling)


def _write_one(folder: Path, index: int, options: CaptureOptions, body_file: Path, device: str) -> None:
    """What a worker process does: one capture, on one thread."""
    torch.set_num_threads(1)
    write_capture(folder, index, options, body=_worker_body(body_file), device=device)


@functools.cache
def _worker_body(body_file: Path) -> BodyModel:
    return load_body(body_file)


def _write_human_list(root: Path, subjects: list[str], options: CaptureOptions, spelling: str) -> None:
    suffix = {"list": "_list", "short": ""}[spelling]
    rig = make_rig(options.rig, options.width, options.height, np.random.default_rng(0), options.cameras)
    content = {
        "human_id": subjects,
        f"view_id{suffix}": list(rig.names),
        f"pose_id{suffix}": [f"{frame:04d}" for frame in options.frames],
    }
    with atomic_path(root / "human.json") as path:
        path.write_text(json.dumps(content, indent=1))


def _stamp(index: int, options: CaptureOptions, body: BodyModel) -> dict:
    """What `body.json` holds: the body that the fits belong to, and what made the capture."""
    return {
        "fingerprint": body.fingerprint,
        "name": body.name,
        "generator": GENERATOR_VERSION,
        "person": index,
        "options": json.loads(json.dumps(asdict(options))),
    }


def is_current(folder: Path, index: int, options: CaptureOptions, body: BodyModel) -> bool:
    """Whether a folder holds this very capture, whole."""
    try:
        stamp = json.loads((folder / "body.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    expected = _stamp(index, options, body)
    return all(stamp.get(key) == value for key, value in expected.items())


def body_params(
    body: BodyModel, person: Person, motion: Motion, frames: tuple[int, ...], front_azimuth: float
) -> BodyParams:
    """Shape and poses of a capture in the raw world, feet on the floor (z = 0), batch axis over frames."""
    poses, roots, places = [], [], []
    for frame in frames:
        angles = motion.angles(frame)
        x, y, drift = motion.place(frame)
        pose = joint_rotations(angles)
        azimuth = np.deg2rad(front_azimuth - angles["heading"] + drift)
        forward = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        up = np.array([0.0, 0.0, -1.0])
        standing = Rotation.from_matrix(np.stack([np.cross(up, forward), up, forward], 1))
        roots.append((standing * Rotation.from_rotvec(pose[0])).as_rotvec())
        poses.append(pose[1:].reshape(-1))
        places.append([x, y, 0.0])
    count = len(frames)
    params = BodyParams(
        betas=torch.tensor(person.betas).expand(count, -1),
        global_orient=torch.from_numpy(np.stack(roots)).float(),
        body_pose=torch.from_numpy(np.stack(poses)).float(),
        transl=torch.zeros(count, 3),
        scale=torch.ones(count),
    )
    posed = body(params)
    shift = torch.tensor(places, dtype=torch.float32)
    shift[:, :2] -= posed.joints[:, 0, :2]
    # The lowest point stands on the floor, on the sole of its shoe.
    shift[:, 2] = -posed.vertices[..., 2].amax(1) - person.shoes.sole
    return BodyParams(params.betas, params.global_orient, params.body_pose, shift, params.scale)


def write_capture(folder: Path, index: int, options: CaptureOptions, *, body: BodyModel, device: str = "cpu") -> None:
    """Write one person's capture; the folder appears when it is whole.

    Args:
        folder: The subject's folder; its name is the subject's id.
        index: Which person of the seed and split.
        body: On the CPU.
        device: Where pictures are drawn.
    """
    person = sample_person(body, options.seed, options.split, index)
    shape = rest_body(body, np.array(person.betas))
    surfaces = person_surfaces(person, shape, options.seed, options.split)
    scene = make_scene(person, surfaces, torch.device(device))
    rng = random_stream(options.seed, options.split, index, "rig")
    rig = make_rig(options.rig, options.width, options.height, rng, options.cameras)
    with torch.no_grad():
        params = body_params(body, person, person.motion, options.frames, rig.front_azimuth)
        posed = body(params)
    with atomic_path(folder) as target, ThreadPoolExecutor(2) as writers:
        target.mkdir()
        _write_cameras(target, rig, long_center=index % 3 == 0)
        jobs = _write_pictures(target, scene, rig, posed, options, writers)
        _write_fits(target, body, _noisy(params, options, index), options)
        for job in jobs:
            job.result()
        if options.holes:
            _punch_holes(target, rig, options)
        # Last: its presence tells that the capture is whole.
        (target / "body.json").write_text(json.dumps(_stamp(index, options, body), indent=1))


def _write_cameras(folder: Path, rig: Rig, long_center: bool) -> None:
    intrinsics = {"intrinsics": rig.intrinsics.tolist(), "dist": []}
    (folder / "camera_intrinsics.json").write_text(json.dumps(intrinsics, indent=1))
    (folder / "camera_extrinsics.json").write_text(json.dumps(rig.extrinsics(long_center), indent=1))
    (folder / "camera_scale.pkl").write_bytes(pickle.dumps(rig.camera_scale, protocol=4))


def _write_pictures(folder, scene: Scene, rig: Rig, posed: PosedBody, options, writers) -> list[Future]:
    device = scene.points.device
    cameras = rig.cameras().to(device)
    for kind in ("images_lr", "fmask_lr"):
        for name in rig.names:
            (folder / kind / name).mkdir(parents=True)
    # A GPU draws all cameras at once; a CPU one at a time, which stays in its cache.
    groups = [slice(None)] if device.type == "cuda" else [slice(i, i + 1) for i in range(len(rig.names))]
    jobs = deque()
    for position, frame in enumerate(options.frames):
        with torch.no_grad():
            body = posed[position]
            moment = scene.pose(
                PosedBody(*(x.to(device) for x in (body.vertices, body.joints, body.shaped, body.vertex_transforms)))
            )
            for group in groups:
                colors, alphas = draw_views(scene, moment, cameras[group], options.samples)
                colors = _with_background(colors, alphas, scene.person.light.background, options.background)
                colors, alphas = (x.mul(255).round().to(torch.uint8).cpu().numpy() for x in (colors, alphas))
                for name, color, alpha in zip(rig.names[group], colors, alphas):
                    if len(jobs) == MAX_UNWRITTEN:
                        jobs.popleft().result()
                    jobs.append(writers.submit(_write_view, folder, name, frame, color, alpha, options))
    return list(jobs)


def _with_background(colors: Tensor, alphas: Tensor, background, keep: bool) -> Tensor:
    """The studio's wall in a box around the person, black farther away, as in the released pictures."""
    if not keep:
        return colors
    height, width = alphas.shape[1:]
    wall = torch.tensor(background, device=colors.device)
    shade = torch.linspace(1.05, 0.8, height, device=colors.device)[:, None, None]
    margin = width // 16
    rows, columns = alphas.amax(2) > 0, alphas.amax(1) > 0
    box = _dilated(rows, margin)[:, :, None] & _dilated(columns, margin)[:, None, :]
    behind = (box[..., None] * (shade * wall)).clamp(0, 1)
    return colors + (1 - alphas[..., None]) * behind


def _dilated(marked: Tensor, margin: int) -> Tensor:
    """Everything between the first and the last marked place of each row, and `margin` more."""
    index = torch.arange(marked.shape[1], device=marked.device)
    first = torch.where(marked, index, marked.shape[1]).amin(1, keepdim=True)
    last = torch.where(marked, index, -1).amax(1, keepdim=True)
    return (index >= first - margin) & (index <= last + margin)


def _write_view(folder: Path, camera: str, frame: int, color, alpha, options: CaptureOptions) -> None:
    picture = folder / "images_lr" / camera / f"{frame:04d}_img.jpg"
    Image.fromarray(color).save(picture, quality=options.quality, optimize=True, progressive=True)
    mask = folder / "fmask_lr" / camera / f"{frame:04d}_img_fmask.png"
    Image.fromarray(alpha).save(mask, compress_level=9 if options.compact else 4)


def _noisy(params: BodyParams, options: CaptureOptions, index: int) -> BodyParams:
    """Fits as an optimiser would have found them: a little off."""
    if options.fit_noise == 0:
        return params
    rng = random_stream(options.seed, options.split, index, "fit")

    def shaken(x: Tensor, share: float) -> Tensor:
        return x + torch.from_numpy(rng.normal(0, share * options.fit_noise, x.shape)).to(x)

    betas = shaken(params.betas[:1], 3.0).expand_as(params.betas)
    return BodyParams(
        betas=betas,
        global_orient=shaken(params.global_orient, 0.3),
        body_pose=shaken(params.body_pose, 1.0),
        transl=shaken(params.transl, 0.1),
        scale=params.scale,
    )


def _write_fits(folder: Path, body: BodyModel, params: BodyParams, options: CaptureOptions) -> None:
    with torch.no_grad():
        posed = body(params)
    fits = folder / "optimized_smpl_points"
    fits.mkdir()
    for position, frame in enumerate(options.frames):
        one = params[position]
        record = {
            "pose": [torch.cat([one.global_orient, one.body_pose]).tolist()],
            "betas": [one.betas.tolist()],
            "translation": one.transl.tolist(),
            "scale": float(one.scale),
        }
        (fits / f"{frame:04d}.json").write_text(json.dumps(record))
        if options.points:
            _write_points(fits / f"{frame:04d}.ply", posed.vertices[position].numpy())
        if options.smpl_param:
            path = folder / "smpl_param" / f"{frame // 5 - 1:06d}.pkl"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pickle.dumps(_smpl_record(body, one, posed[position]), protocol=4))


def _write_points(path: Path, vertices: np.ndarray) -> None:
    """An ASCII point cloud in HGG's world: (x, y, z) of the raw world becomes (x, z, -y)."""
    swapped = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], 1)
    header = ["ply", "format ascii 1.0", f"element vertex {len(swapped)}"]
    header += [f"property float {axis}" for axis in "xyz"] + ["end_header"]
    lines = [" ".join(f"{value:.6f}" for value in row) for row in swapped]
    path.write_text("\n".join(header + lines) + "\n")


def _smpl_record(body: BodyModel, params: BodyParams, posed: PosedBody) -> dict:
    """The content of a `smpl_param` file."""
    rotvecs = torch.cat([params.global_orient, params.body_pose]).reshape(-1, 3).numpy()
    rotations = torch.from_numpy(Rotation.from_rotvec(rotvecs).as_matrix()).float()[None]
    # Clones: a slice would drag the whole tensor's storage into the file.
    return {
        "global_orient": rotations[:, :1].clone(),
        "body_pose": rotations[:, 1:].clone(),
        "full_pose": rotations,
        "betas": params.betas[None].clone(),
        "vertices": posed.vertices[None].clone(),
        "joints": torch.cat([posed.joints, posed.vertices[list(LANDMARKS)]])[None],
        "faces": body.faces.numpy().astype(np.uint32),
        "transl": None,
        "v_shaped": None,
    }


def _punch_holes(folder: Path, rig: Rig, options: CaptureOptions) -> None:
    """Damage a capture as real ones are damaged."""
    for position, frame in enumerate(options.frames):
        if position % 3 == 1:
            (folder / "smpl_param" / f"{frame // 5 - 1:06d}.pkl").unlink(missing_ok=True)
        if position % 6 == 4:  # of these, half have no fit at all
            (folder / "optimized_smpl_points" / f"{frame:04d}.json").unlink()
            (folder / "optimized_smpl_points" / f"{frame:04d}.ply").unlink(missing_ok=True)
    if len(rig.names) > 1:
        for kind in ("images_lr", "fmask_lr"):
            shutil.rmtree(folder / kind / rig.names[-1])
    path = folder / "fmask_lr" / rig.names[0] / f"{options.frames[0]:04d}_img_fmask.png"
    mask = Image.open(path)
    mask.resize((mask.width * 4 // 3, mask.height * 4 // 3), Image.Resampling.BILINEAR).save(path)
