"""The motion of any human skeleton as rotations of SMPL's joints.

For each joint j of the body there is a constant rotation O_j from the axes of the body's rest pose to those of the
skeleton's joint, and G_j(t) = W_j(t) O_j is the orientation of the body's joint in the world, with W_j(t) that of the
skeleton's. So directions of limbs carry over exactly, whatever the lengths of the bones.

O_j comes from the skeleton's zero pose where that is a human pose (T, A or arms down): directions of its limbs are
aligned with the body's by the smallest rotation. Many rigs have a zero pose in which limbs point along one axis; there
O_j comes from the offsets of hips and shoulders, from the directions of the bones, and from the axes about which elbows
and knees bend in the clip.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from core.motion.files.bvh import BvhClip
from core.motion.files.joint_names import JointMap
from core.motion.files.track import NUM_JOINTS
from smpl_renderer.body_model import JOINT_NAMES, SMPL_PARENTS
from smpl_renderer.rotations_numpy import nearest_rotation, rotation_between

SNAP = np.cos(np.radians(20))
"""Cosine of the angle within which the axes of a skeleton count as those of the coordinate system."""
MIN_BEND = np.sin(np.radians(8))
"""Mean sine of the angle between two bones above which the joint between shows its axis."""
MAX_ZERO_ROTATION = np.radians(50)
"""Mean rotation of a joint relative to its parent below which both have the same axes in the zero pose."""
_HINGES = {"left_knee": (1, 0, 0), "right_knee": (1, 0, 0), "left_elbow": (0, -1, 0), "right_elbow": (0, 1, 0)}
"""Axes about which these joints of the body bend."""
_LEGS, _ARMS = ("hip", "knee", "ankle", "foot"), ("collar", "shoulder", "elbow", "wrist")

Matrix = Float[np.ndarray, "3 3"]


class _Calibration:
    """Rotations O_j from the body's rest axes to those of the skeleton's joints, by SMPL's names of joints."""

    def __init__(self, clip: BvhClip, joints: JointMap, rest: Float[np.ndarray, "24 3"]):
        self.clip, self.joints = clip, joints
        self.rest = {name: rest[i] for i, name in enumerate(JOINT_NAMES)}
        self.O: dict[str, Matrix] = {}
        self.source: dict[str, int] = dict(joints.limbs)
        self._calibrate_trunk()
        for side in ("left", "right"):
            self._calibrate_leg(side)
            self._calibrate_arm(side)

    def orientations(self, name: str) -> Float[np.ndarray, "T 3 3"]:
        """G of a joint of the body."""
        return self._world(self.source[name]) @ self.O[name]

    def _calibrate_trunk(self) -> None:
        limbs, pelvis = self.joints.limbs, self.joints.pelvis
        chest = self.joints.spine[-1] if self.joints.spine else pelvis
        hips_left = self._zero(limbs["left_hip"]) - self._zero(limbs["right_hip"])
        shoulders_left = self._shoulders_left()
        top = self.joints.neck[0] if self.joints.neck else self.joints.head
        top_place = self._zero(top) if top is not None else self._zero(chest) * 2 - self._zero(pelvis)
        hips_place = (self._zero(limbs["left_hip"]) + self._zero(limbs["right_hip"])) / 2
        is_human = _cosine(hips_left, shoulders_left) > 0.6 and abs(_cosine(hips_left, top_place - hips_place)) < 0.5
        self.source["pelvis"] = pelvis
        if is_human:
            self.O["pelvis"] = _snapped(_frame(hips_left, top_place - hips_place))
            self.zero_axes: Matrix | None = self.O["pelvis"]
        else:
            first = self._zero(self.joints.spine[0]) if self.joints.spine else top_place
            self.O["pelvis"] = _snapped(_frame(hips_left, first - self._zero(pelvis)))
            self.zero_axes = None
        self._calibrate_spine(chest, shoulders_left, top_place)

    def _shoulders_left(self) -> Float[np.ndarray, "3"]:
        """Direction from the right to the left of the chest: between the collars, where they are apart."""
        limbs = self.joints.limbs
        for role in ("collar", "shoulder"):
            if f"left_{role}" in limbs and f"right_{role}" in limbs:
                vector = self._zero(limbs[f"left_{role}"]) - self._zero(limbs[f"right_{role}"])
                if np.linalg.norm(vector) > 1e-3 * np.abs(self.clip.skeleton.offsets).max():
                    return vector
        return np.array([1.0, 0, 0])

    def _calibrate_spine(self, chest: int, shoulders_left: np.ndarray, top_place: np.ndarray) -> None:
        """Axes of the joints from the lowest of the spine to the head, by index of the skeleton's joint."""
        self.trunk: dict[int, Matrix] = {self.joints.pelvis: self.O["pelvis"]}
        above = [*self.joints.neck, *([] if self.joints.head is None else [self.joints.head])]
        previous = self.joints.pelvis
        for index in (*self.joints.spine, *above):
            if self.zero_axes is not None:
                self.trunk[index] = self.zero_axes
            elif index == chest:
                self.trunk[index] = _snapped(_frame(shoulders_left, top_place - self._zero(chest)))
            else:
                self.trunk[index] = self._following(index, previous, self.trunk[previous])
            previous = index

    def _calibrate_leg(self, side: str) -> None:
        chain = [f"{side}_{role}" for role in _LEGS if f"{side}_{role}" in self.source]
        direction = self._zero(self.source[chain[2]]) - self._zero(self.source[chain[0]])
        if self.zero_axes is not None and _cosine(direction, -self.zero_axes[:, 1]) > 0.5:
            self._align_directions(chain[:3])
            for name in chain[2:]:
                self.O[name] = self.zero_axes
            return
        self._hinge_axes(*chain[:3])
        self._foot_axes(side, chain)

    def _calibrate_arm(self, side: str) -> None:
        chain = [f"{side}_{role}" for role in _ARMS if f"{side}_{role}" in self.source]
        shoulder, elbow, *wrist = [name for name in chain if not name.endswith("collar")]
        collar = f"{side}_collar"
        direction = self._zero(self.source[elbow]) - self._zero(self.source[shoulder])
        outwards = np.array([1 if side == "left" else -1, 0, 0])
        chest = self.joints.spine[-1] if self.joints.spine else self.joints.pelvis
        if self.zero_axes is not None:
            lateral, height = (_cosine(direction, self.zero_axes @ axis) for axis in (outwards, np.array([0, 1, 0])))
            if lateral > 0.3 or height < -0.6:
                self.O[collar] = self.zero_axes
                self._align_directions([shoulder, elbow, *wrist])
                if wrist:
                    self.O[wrist[0]] = self.O[elbow]
                return
        if collar in self.source:
            self.O[collar] = self._following(self.source[collar], chest, self.trunk[chest])
        self._hinge_axes(shoulder, elbow, wrist[0] if wrist else None)
        if wrist:
            self.O[wrist[0]] = self._following(self.source[wrist[0]], self.source[elbow], self.O[elbow])

    def _align_directions(self, chain: list[str]) -> None:
        """Axes of the bones between joints of a chain: zero-pose axes, turned least to have the bones' directions."""
        for name, child in pairwise(chain):
            direction = self._zero(self.source[child]) - self._zero(self.source[name])
            wanted = self.zero_axes @ (self.rest[child] - self.rest[name])
            self.O[name] = rotation_between(wanted, direction) @ self.zero_axes
        if len(chain) == 2:
            self.O[chain[1]] = self.O[chain[0]]

    def _hinge_axes(self, upper: str, middle: str, end: str | None) -> None:
        """Axes of two bones from their directions and from the axis about which they bend."""
        places = [self.clip.positions[:, self.source[name]] for name in (upper, middle)]
        end_index = self.source[end] if end is not None else self._child(self.source[middle])
        places.append(self.clip.positions[:, end_index])
        bones = [_unit(b - a) for a, b in pairwise(places)]
        hinge = np.cross(*bones)
        bends = np.linalg.norm(hinge, axis=1).mean() > MIN_BEND
        for name, bone in zip((upper, middle), bones):
            W = self._world(self.source[name])
            primary = _unit(np.einsum("tji,tj->i", W, bone))
            child = middle if name == upper else end
            rest_bone = self.rest[child] - self.rest[name] if child else self._rest_forearm(name)
            if bends:
                axis = np.einsum("tji,tj->i", W, hinge)
                self.O[name] = _frame(primary, axis) @ _frame(rest_bone, np.array(_HINGES[middle], float)).T
            else:
                parent = self._parent_orientations(name)
                mean = np.einsum("tji,tjk->ik", W, parent)
                self.O[name] = _twist_nearest(mean, rest_bone, primary)

    def _rest_forearm(self, elbow: str) -> np.ndarray:
        return self.rest[elbow.replace("elbow", "wrist")] - self.rest[elbow]

    def _foot_axes(self, side: str, chain: list[str]) -> None:
        """Axes of the foot: its direction to the toes, and no mean twist against the shin."""
        ankle = f"{side}_ankle"
        index = self.source[ankle]
        toe = self.source.get(f"{side}_foot", self._child(index))
        W, shin = self._world(index), self.orientations(f"{side}_knee")
        mean = np.einsum("tji,tjk->ik", W, shin)
        bone = _unit(self.clip.positions[:, toe] - self.clip.positions[:, index])
        primary = np.einsum("tji,tj->i", W, bone)
        rest_bone = self.rest[f"{side}_foot"] - self.rest[ankle]
        usable = toe != index and np.linalg.norm(primary) > 1e-6
        self.O[ankle] = _twist_nearest(mean, rest_bone, primary) if usable else nearest_rotation(mean)
        if len(chain) > 3:
            self.O[chain[3]] = self._following(toe, index, self.O[ankle])

    def _parent_orientations(self, name: str) -> Float[np.ndarray, "T 3 3"]:
        parent = JOINT_NAMES[SMPL_PARENTS[JOINT_NAMES.index(name)]]
        if parent in self.O and parent in self.source:
            return self.orientations(parent)
        chest = self.joints.spine[-1] if self.joints.spine and "hip" not in name else self.joints.pelvis
        return self._world(chest) @ self.trunk[chest]

    def _following(self, index: int, parent: int, axes: Matrix) -> Matrix:
        """Axes of a joint, from those of its parent: the same if both agree in the zero pose, else such that the mean
        rotation between them is none."""
        relative = np.einsum("tji,tjk->ik", self._world(parent), self._world(index)) / len(self.clip.orientations)
        angle = np.arccos(np.clip((np.trace(nearest_rotation(relative)) - 1) / 2, -1, 1))
        return axes if angle < MAX_ZERO_ROTATION else nearest_rotation(relative.T @ axes)

    def _world(self, index: int) -> Float[np.ndarray, "T 3 3"]:
        return self.clip.orientations[:, index]

    def _zero(self, index: int) -> Float[np.ndarray, "3"]:
        """Position of a joint in the zero pose."""
        skeleton, place = self.clip.skeleton, np.zeros(3)
        while index >= 0:
            place, index = place + skeleton.offsets[index], skeleton.parents[index]
        return place

    def _child(self, index: int) -> int:
        """The farthest child of a joint; the joint itself if it has none."""
        skeleton = self.clip.skeleton
        children = [i for i, parent in enumerate(skeleton.parents) if parent == index]
        return max(children, key=lambda i: np.linalg.norm(skeleton.offsets[i]), default=index)


def retarget(clip: BvhClip, joints: JointMap, rest: Float[np.ndarray, "24 3"]) -> Float[np.ndarray, "T 24 3 3"]:
    """Rotations of SMPL's joints relative to their parents, in the motion of a skeleton.

    Args:
        clip: At least one frame.
        joints: Roles of the skeleton's joints.
        rest: Joints of the body's rest pose.
    """
    calibration = _Calibration(clip, joints, rest)
    world: dict[str, np.ndarray] = {"pelvis": calibration.orientations("pelvis")}
    for name in calibration.source:
        if name in calibration.O:
            world[name] = calibration.orientations(name)
    world |= _spread_spine(clip, joints, calibration.trunk)
    count = len(clip.orientations)
    local = np.tile(np.eye(3), (count, NUM_JOINTS, 1, 1))
    orientations: list[np.ndarray] = []
    for joint, name in enumerate(JOINT_NAMES):
        parent = SMPL_PARENTS[joint]
        if parent < 0:
            local[:, joint] = world[name]
            orientations.append(world[name])
        elif name in world:
            local[:, joint] = orientations[parent].swapaxes(-1, -2) @ world[name]
            orientations.append(world[name])
        else:
            orientations.append(orientations[parent])
    return local


def _spread_spine(clip: BvhClip, joints: JointMap, trunk: dict[int, Matrix]) -> dict[str, np.ndarray]:
    """Orientations of the body's three spine joints, neck and head, from chains of any length."""
    chain = [clip.orientations[:, i] @ trunk[i] for i in (joints.pelvis, *joints.spine)]
    last = len(chain) - 1
    result = {f"spine{k}": _between(chain, k / 3 * last) for k in (1, 2, 3)}
    neck = [clip.orientations[:, i] @ trunk[i] for i in joints.neck]
    head = None if joints.head is None else clip.orientations[:, joints.head] @ trunk[joints.head]
    if neck:
        result["neck"] = _between(neck, (len(neck) - 1) / 2)
        result["head"] = neck[-1] if head is None else head
    elif head is not None:
        result |= {"neck": _between([chain[-1], head], 0.5), "head": head}
    return result


def _between(chain: list[np.ndarray], position: float) -> Float[np.ndarray, "T 3 3"]:
    """Orientations at a position between those of a chain: normalised linear interpolation of the matrices."""
    left = min(int(position), len(chain) - 1)
    right = min(left + 1, len(chain) - 1)
    share = position - left
    if share < 1e-9 or left == right:
        return chain[left]
    blended = (1 - share) * chain[left] + share * chain[right]
    return nearest_rotation(blended)


def _frame(left: np.ndarray, up: np.ndarray) -> Matrix:
    """Rotation whose first axis (the body's left) has this direction, and its second (up) as far as possible."""
    x = _unit(left)
    y = _unit(up - x * (x @ up))
    return np.stack([x, y, np.cross(x, y)], 1)


def _snapped(frame: Matrix) -> Matrix:
    """The nearest frame along the coordinate axes, if it is near: rest poses are upright, spines are not straight."""
    snapped = np.round(frame)
    is_rotation = np.allclose(snapped @ snapped.T, np.eye(3)) and np.linalg.det(snapped) > 0
    return snapped if is_rotation and np.all((snapped * frame).sum(0) > SNAP) else frame


def _twist_nearest(mean: Matrix, rest_bone: np.ndarray, bone: np.ndarray) -> Matrix:
    """The rotation that takes `rest_bone` to the direction of `bone` and is nearest to `mean` in its twist."""
    nearest = nearest_rotation(mean)
    return rotation_between(nearest @ rest_bone, bone) @ nearest


def _unit(vectors: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-12)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(_unit(a) @ _unit(b))
