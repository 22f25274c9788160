"""Motion files in the forms of other programs, written from a motion that is known."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from core.motion.builtin import builtin_motion
from core.motion.motion import Motion, resample
from smpl_renderer.body_model import JOINT_NAMES, SMPL_PARENTS, BodyModel

FROM_Y_UP = {
    "+y": np.eye(3),
    "+z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "-y": np.diag([1.0, -1, -1]),
}
"""Rotations from a world with y up to worlds with other up axes."""
CAMERA = FROM_Y_UP["-y"]
"""World to camera axes (y down), for a camera without tilt."""


class Truth:
    """A dance of T frames in metres, y up, that moves on by 0.6 m/s, as arrays in float64."""

    def __init__(self, body: BodyModel, fps: float = 30.0, count: int = 45, name: str = "dance"):
        clip = resample(builtin_motion(name, body), fps, count)
        self.fps, self.count = fps, count
        pose = torch.cat([clip.global_orient, clip.body_pose], 1).double().numpy().reshape(count, 24, 3)
        pose[:, 22:] = 0  # hands, which most files do not have
        self.axis_angles = pose
        self.rotations = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(count, 24, 3, 3)
        self.rest = body.rest_joints(body.v_template).double().numpy()
        path = np.arange(count)[:, None] / fps * np.array([0.6, 0, 0])
        self.pelvis = clip.pelvis.double().numpy() + path

    def root(self, axes: np.ndarray) -> np.ndarray:
        """Orientation [T, 3] of the body as axis-angle, in a world that `axes` takes y-up coordinates to."""
        return Rotation.from_matrix(axes @ self.rotations[:, 0]).as_rotvec()

    def poses(self, axes: np.ndarray) -> np.ndarray:
        """Axis-angles [T, 72] in such a world."""
        return np.concatenate([self.root(axes), self.axis_angles[:, 1:].reshape(self.count, -1)], 1)

    def transl(self, axes: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """SMPL's translation [T, 3] in such a world."""
        return scale * self.pelvis @ axes.T - self.rest[0]


def orientations(rotations: np.ndarray) -> np.ndarray:
    """Orientations of the joints in the world from rotations relative to their parents, [T, 24, 3, 3]."""
    result = rotations.copy()
    for joint, parent in enumerate(SMPL_PARENTS):
        if parent >= 0:
            result[:, joint] = result[:, parent] @ rotations[:, joint]
    return result


def motion_rotations(motion: Motion) -> np.ndarray:
    """Rotations [T, 24, 3, 3] of a motion."""
    pose = torch.cat([motion.global_orient, motion.body_pose], 1).double().numpy().reshape(-1, 3)
    return Rotation.from_rotvec(pose).as_matrix().reshape(len(motion), 24, 3, 3)


# ---- Estimators and parameters --------------------------------------------------------------------------------------


def write_amass(path: Path, truth: Truth, up: str = "+z") -> Path:
    axes = FROM_Y_UP[up]
    poses = np.concatenate([truth.poses(axes)[:, :66], np.full((truth.count, 90), 0.1)], 1)
    np.savez(path, poses=poses, trans=truth.transl(axes), betas=np.ones(16), mocap_framerate=truth.fps, gender="female")
    return path


def write_amass_smplx(path: Path, truth: Truth, up: str = "+z") -> Path:
    axes, pose = FROM_Y_UP[up], truth.poses(FROM_Y_UP[up])
    parts = {"root_orient": pose[:, :3], "pose_body": pose[:, 3:66], "pose_hand": np.full((truth.count, 90), 0.2)}
    np.savez(path, **parts, trans=truth.transl(axes), betas=np.ones(16), mocap_frame_rate=truth.fps, poses=_smplx(pose))
    return path


def _smplx(pose: np.ndarray) -> np.ndarray:
    return np.concatenate([pose[:, :66], np.zeros((len(pose), 99))], 1)


def write_aist(path: Path, truth: Truth, up: str = "-y", scaling: float = 93.0) -> Path:
    axes = FROM_Y_UP[up]
    # The scaled body stands at the scaled place: the pelvis is at scaling * J0 + trans.
    trans = scaling * (truth.pelvis @ axes.T - truth.rest[0])
    content = {"smpl_poses": truth.poses(axes), "smpl_trans": trans, "smpl_scaling": np.array([scaling])}
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def write_smplx_json(path: Path, truth: Truth) -> Path:
    """One dictionary per frame, as SMPLify-X programs write."""
    pose = truth.poses(CAMERA)
    frames = [
        {
            "global_orient": pose[i, None, :3].tolist(),
            "body_pose": pose[i, None, 3:66].tolist(),
            "transl": truth.transl(CAMERA)[i, None].tolist(),
            "betas": [[0.5] * 10],
        }
        for i in range(truth.count)
    ]
    path.write_text(json.dumps(frames))
    return path


def write_smpl_pt(path: Path, truth: Truth) -> Path:
    """Rotation matrices as PyTorch tensors."""
    rotations = torch.from_numpy(truth.rotations)
    content = {"global_orient": rotations[:, :1], "body_pose": rotations[:, 1:], "fps": truth.fps}
    torch.save(content | {"transl": torch.from_numpy(truth.transl(np.eye(3)))}, path)
    return path


def write_gvhmr(path: Path, truth: Truth) -> Path:
    def params(axes: np.ndarray) -> dict[str, torch.Tensor]:
        pose = torch.from_numpy(truth.poses(axes)).float()
        transl = torch.from_numpy(truth.transl(axes)).float()
        return {"global_orient": pose[:, :3], "body_pose": pose[:, 3:66], "transl": transl, "betas": torch.ones(45, 10)}

    content = {"smpl_params_global": params(np.eye(3)), "smpl_params_incam": params(CAMERA), "K_fullimg": torch.eye(3)}
    torch.save(content, path)
    return path


def write_wham(path: Path, truth: Truth, left_out: tuple[int, ...] = ()) -> Path:
    """Two people; the second is in few frames. Frames can be missing."""
    keep = np.array([i for i in range(truth.count) if i not in left_out])
    full = {
        "pose": truth.poses(CAMERA)[keep],
        "trans": truth.transl(CAMERA)[keep],
        "pose_world": truth.poses(np.eye(3))[keep],
        "trans_world": truth.transl(np.eye(3))[keep],
        "betas": np.ones((len(keep), 10)),
        "frame_ids": keep,
    }
    short = {name: 0 * value[:3] for name, value in full.items()} | {"frame_ids": keep[:3]}
    path.write_bytes(pickle.dumps({3: short, 7: full}))
    return path


def write_tram(folder: Path, truth: Truth) -> Path:
    """Tracks in a camera that moves sideways, and the camera."""
    (folder / "hps").mkdir(parents=True)
    axes, moved = CAMERA, np.arange(truth.count)[:, None] * np.array([0.01, 0, 0])
    pelvis = (truth.pelvis - moved) @ axes.T
    rotations = np.concatenate([(axes @ truth.rotations[:, 0])[:, None], truth.rotations[:, 1:]], 1)
    track = {
        "pred_rotmat": torch.from_numpy(rotations).float(),
        "pred_trans": torch.from_numpy(pelvis - truth.rest[0])[:, None].float(),
        "pred_shape": torch.ones(truth.count, 10),
        "frame": torch.arange(truth.count),
    }
    np.save(folder / "hps" / "hps_track_0.npy", track)
    cameras = {"world_cam_R": np.tile(axes.T, (truth.count, 1, 1)), "world_cam_T": moved, "img_focal": 900.0}
    np.save(folder / "camera.npy", cameras)
    return folder


def write_phalp(path: Path, truth: Truth) -> Path:
    frames = {}
    for i in range(truth.count):
        rotations = np.concatenate([(CAMERA @ truth.rotations[i, 0])[None], truth.rotations[i, 1:]])
        smpl = {"global_orient": rotations[None, :1], "body_pose": rotations[None, 1:], "betas": np.ones(10)}
        frames[f"outputs/_DEMO/clip/img/{i + 1:06d}.jpg"] = {"tid": [4], "smpl": [smpl], "tracked_ids": [4]}
    path.write_bytes(pickle.dumps(frames))
    return path


def write_prompthmr(path: Path, truth: Truth) -> Path:
    def person(axes: np.ndarray) -> dict[str, np.ndarray]:
        return {"pose": _smplx(truth.poses(axes)), "trans": truth.transl(axes), "shape": np.ones((truth.count, 10))}

    track = {"frames": np.arange(truth.count), "smplx_cam": person(CAMERA), "smplx_world": person(np.eye(3))}
    path.write_bytes(pickle.dumps({"people": {1: track}}))
    return path


def write_easymocap(folder: Path, truth: Truth) -> Path:
    folder.mkdir(parents=True)
    axes = FROM_Y_UP["+z"]
    root = truth.root(axes)
    Th = truth.pelvis @ axes.T - Rotation.from_rotvec(root).apply(truth.rest[0])
    for i in range(truth.count):
        pose = np.concatenate([np.zeros(3), truth.axis_angles[i, 1:].ravel()])
        entry = {
            "id": 0,
            "Rh": [root[i].tolist()],
            "Th": [Th[i].tolist()],
            "poses": [pose.tolist()],
            "shapes": [[1.0] * 10],
        }
        (folder / f"{i:06d}.json").write_text(json.dumps([entry]))
    return folder


# ---- BVH ------------------------------------------------------------------------------------------------------------


def bvh_joints(style: str) -> list[tuple[str, str, str | None]]:
    """Name, SMPL's joint and parent's name of each joint of a skeleton like those of a program."""
    if style == "bandai":
        trunk = [("Hips", "pelvis", "joint_Root"), ("Spine", "spine1", "Hips"), ("Chest", "spine3", "Spine")]
        trunk += [("Neck", "neck", "Chest"), ("Head", "head", "Neck")]
        limbs = (
            "Shoulder_{}",
            "UpperArm_{}",
            "LowerArm_{}",
            "Hand_{}",
            "UpperLeg_{}",
            "LowerLeg_{}",
            "Foot_{}",
            "Toes_{}",
        )
        chest, sides, root = "Chest", ("L", "R"), [("joint_Root", "root", None)]
    else:
        last = {"cmu": "Spine1", "lafan": "Spine2", "mixamo": "Spine2", "motionbuilder": "Spine3"}[style]
        spine = {"cmu": ("LowerBack", "Spine", "Spine1")}.get(style, ("Spine", "Spine1", "Spine2"))
        spine += ("Spine3",) if style == "motionbuilder" else ()
        smpl = ("spine1", "spine2", "spine3", "spine3")
        trunk, previous, root = [("Hips", "pelvis", None)], "Hips", []
        for name, joint in zip(spine, smpl):
            trunk.append((name, joint, previous))
            previous = name
        trunk += [("Neck", "neck", last), ("Head", "head", "Neck")]
        toe = "{}Toe" if style == "lafan" else "{}ToeBase"
        limbs = ("{}Shoulder", "{}Arm", "{}ForeArm", "{}Hand", "{}UpLeg", "{}Leg", "{}Foot", toe)
        chest, sides = last, ("Left", "Right")
    roles = ("collar", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "foot")
    joints = root + trunk
    for side, smpl_side in zip(sides, ("left", "right")):
        previous = chest
        for name, role in zip(limbs, roles):
            parent = "Hips" if role == "hip" else previous
            joints.append((name.format(side), f"{smpl_side}_{role}", parent))
            previous = name.format(side)
    prefix = {"mixamo": "mixamorig:", "motionbuilder": "Character1_"}.get(style, "")
    return [(prefix + name, joint, parent and prefix + parent) for name, joint, parent in joints]


def zero_pose(style: str, rest: np.ndarray) -> dict[str, np.ndarray]:
    """Orientations of SMPL's joints in the skeleton's zero pose: T, arms down, or all bones along x."""
    zero = {name: np.eye(3) for name in (*JOINT_NAMES, "root")}
    if style == "cmu":  # arms hang
        for side, sign in (("left", -1), ("right", 1)):
            for role in ("shoulder", "elbow", "wrist"):
                zero[f"{side}_{role}"] = Rotation.from_euler("z", 80 * sign, degrees=True).as_matrix()
    if style == "lafan":
        children = {"hip": "knee", "knee": "ankle", "ankle": "foot", "shoulder": "elbow", "elbow": "wrist"}
        for side in ("left", "right"):
            for role, child in children.items():
                a, b = (JOINT_NAMES.index(f"{side}_{x}") for x in (role, child))
                bone = (rest[b] - rest[a]) / np.linalg.norm(rest[b] - rest[a])
                to_x, _ = Rotation.align_vectors([[1, 0, 0]], [bone])
                zero[f"{side}_{role}"] = (Rotation.from_euler("x", 0.7) * to_x).as_matrix()
            zero[f"{side}_foot"] = zero[f"{side}_ankle"]
            zero[f"{side}_wrist"] = zero[f"{side}_elbow"]
        for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head", "left_collar", "right_collar"):
            zero[name] = Rotation.from_euler("z", -90, degrees=True).as_matrix()  # the spine along x
    return zero


def write_bvh(path: Path, truth: Truth, style: str, metres_per_unit: float = 0.01, longer: float = 1.0) -> Path:
    """A BVH whose limbs have the directions of the truth.

    Args:
        style: cmu, lafan, mixamo, bandai or motionbuilder.
        metres_per_unit: Unit of lengths.
        longer: Length of the arms relative to those of the truth's body.
    """
    joints = bvh_joints(style)
    zero, world = zero_pose(style, truth.rest), orientations(truth.rotations)
    names = [name for name, _, _ in joints]
    order = {"cmu": "ZYX", "lafan": "ZYX", "mixamo": "ZXY", "bandai": "ZXY", "motionbuilder": "XYZ"}[style]
    children = {name: [n for n, _, parent in joints if parent == name] for name in names}
    own = dict(zip(names, [joint for _, joint, _ in joints]))
    lines, values, file_world = ["HIERARCHY"], [], {}

    def rest_place(joint: str) -> np.ndarray:
        return np.zeros(3) if joint == "root" else truth.rest[JOINT_NAMES.index(joint)]

    def write(name: str, parent: str | None, depth: int) -> None:
        joint, tab = own[name], "\t" * depth
        bone = rest_place(joint) - rest_place(own[parent]) if parent else np.zeros(3)
        if any(role in joint for role in ("elbow", "wrist")):
            bone = bone * longer
        if parent and own[parent] == joint:  # two joints of the skeleton for one of the body
            bone = np.array([0, 0.08, 0])
        offset = zero[own[parent]] @ bone / metres_per_unit if parent else bone
        lines.append(f"{tab}{'JOINT' if parent else 'ROOT'} {name}")
        lines.append(f"{tab}{{")
        lines.append(f"{tab}\tOFFSET {' '.join(f'{x:.6f}' for x in offset)}")
        has_place = parent is None or style == "motionbuilder" or joint == "pelvis"
        rotations = " ".join(f"{axis}rotation" for axis in order)
        lines.append(
            f"{tab}\tCHANNELS {6 if has_place else 3} {'Xposition Yposition Zposition ' * has_place}{rotations}"
        )
        G = np.tile(np.eye(3), (truth.count, 1, 1)) if joint == "root" else world[:, JOINT_NAMES.index(joint)]
        file_world[name] = W = G @ zero[joint].T
        if has_place:
            is_pelvis = joint == "pelvis"
            place = truth.pelvis / metres_per_unit if is_pelvis else np.tile(offset, (truth.count, 1))
            values.append(place)
        local = W if parent is None else file_world[parent].swapaxes(-1, -2) @ W
        values.append(Rotation.from_matrix(local).as_euler(order, degrees=True))
        for child in children[name]:
            write(child, name, depth + 1)
        if not children[name]:
            lines.extend([f"{tab}\tEnd Site", f"{tab}\t{{", f"{tab}\t\tOFFSET 0 1 0", f"{tab}\t}}"])
        lines.append(f"{tab}}}")

    write(names[0], None, 0)
    table = np.concatenate(values, 1)
    lines += ["MOTION", f"Frames: {truth.count}", f"Frame Time: {1 / truth.fps:.6f}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in table]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_zip_bomb(path: Path) -> Path:
    """An `.npz` whose header announces 8 TB."""
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("poses.npy", header + text.ljust(117) + b"\n")
    return path
