"""Joints of a skeleton found by their names: those of motion-capture systems, animation programs and SMPL."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

_LIMB_ROLES = {
    "collar": ("collar", "clavicle", "shoulderblade", "scapula", "shoulder"),
    "shoulder": ("upperarm", "uparm", "arm", "shldr", "humerus", "shoulder", "shoulderjoint"),
    "elbow": ("forearm", "lowerarm", "lowarm", "elbow", "radius"),
    "wrist": ("wrist", "hand"),
    "hip": ("upleg", "upperleg", "upperlegs", "thigh", "femur", "hip", "hipjoint"),
    "knee": ("lowleg", "lowerleg", "shin", "calf", "knee", "tibia", "leg"),
    "ankle": ("ankle", "foot"),
    "foot": ("toe", "toes", "toebase", "toe0", "ball", "foot"),
}
"""Names of a joint without its side, in order of preference. A name serves one role only: `LeftShoulder` is a collar if
there is a `LeftArm`, and else an upper arm."""
_TRUNK_NAMES = re.compile(r"(lower|upper)?(spine|chest|back|torso|abdomen|waist|thorax|midchest)(lower|upper)?\d*")
_NECK_NAMES = re.compile(r"(lower|upper)?neck(lower|upper)?\d*")
_PELVIS_NAMES = ("hips", "pelvis", "hip", "root")
_HEAD_NAMES = ("head", "skull")
_PREFIX = r"(bip\d*|mixamorig\d*|character\d*|joint|jnt|def|org|[mf]_avg)[\s_\-.]+"
_VRM_SIDES = {"c": "", "l": "left_", "r": "right_"}
_LEFT_WORDS, _RIGHT_WORDS = ("left", "lft"), ("right", "rgt")
_LIMBS = {"arm": ("collar", "shoulder", "elbow", "wrist"), "leg": ("hip", "knee", "ankle", "foot")}
_CHOICE_ORDER = {"collar": 1, "shoulder": 0, "elbow": 2, "wrist": 3, "hip": 0, "knee": 1, "ankle": 2, "foot": 3}
"""Order in which the roles of a limb choose their names: the upper arm before the collar, so that a lone `shoulder` is
an upper arm, and the ankle before the toes, so that a lone `foot` is an ankle."""
REQUIRED = ("shoulder", "elbow", "hip", "knee", "ankle")


@dataclass(frozen=True)
class JointMap:
    """Indices of a skeleton's joints by what they are."""

    pelvis: int
    spine: tuple[int, ...]
    """Joints of the spine, from the lowest upwards; may be empty."""
    neck: tuple[int, ...]
    head: int | None
    limbs: dict[str, int]
    """Joints of the limbs by SMPL's names, such as `left_elbow`; collars, wrists and feet may be missing."""


def find_joints(names: Sequence[str], parents: Sequence[int]) -> JointMap:
    """Find the joints of a human skeleton.

    Args:
        names: Names of the joints.
        parents: Index of the parent of each, -1 for the root; parents come first.
    Raises:
        ValueError: If limbs or the pelvis are missing; the message lists what was found.
    """
    sided = [_split_side(name) for name in _bare_names(names)]
    limbs: dict[str, int] = {}
    for side in ("left", "right"):
        own = {}
        for index, (found, word) in enumerate(sided):
            if found == side:
                own.setdefault(word, index)
        limbs |= {f"{side}_{role}": index for role, index in _limb_joints(own).items()}
    if missing := [
        f"{side}_{role}" for side in ("left", "right") for role in REQUIRED if f"{side}_{role}" not in limbs
    ]:
        raise ValueError(f"no joints for {', '.join(missing)} among {', '.join(names[:40])}")
    pelvis = _common_ancestor(limbs["left_hip"], limbs["right_hip"], parents)
    named = [i for i, (side, word) in enumerate(sided) if side == "" and word in _PELVIS_NAMES]
    chain = _ancestors(pelvis, parents)
    pelvis = next((i for i in chain if i in named), pelvis)
    shoulders = _common_ancestor(limbs["left_shoulder"], limbs["right_shoulder"], parents)
    trunk = [i for i in reversed(_ancestors(shoulders, parents)) if i not in (pelvis, *_ancestors(pelvis, parents))]
    spine = [i for i in trunk if sided[i][0] == "" and not _NECK_NAMES.fullmatch(sided[i][1])]
    if not any(_TRUNK_NAMES.fullmatch(sided[i][1]) for i in spine) and len(spine) > 4:
        raise ValueError(f"no spine between {names[pelvis]} and {names[shoulders]}")
    central = [i for i, (side, _) in enumerate(sided) if side == ""]
    head = next((i for i in central if sided[i][1] in _HEAD_NAMES), None)
    neck = [i for i in central if _NECK_NAMES.fullmatch(sided[i][1])]
    return JointMap(pelvis, tuple(spine), tuple(neck), head, limbs)


def _limb_joints(own: dict[str, int]) -> dict[str, int]:
    """Roles of one side's joints. A role takes its first name that is there and not needed by a later role."""
    roles: dict[str, int] = {}
    for limb in _LIMBS.values():
        taken: set[str] = set()
        for role in sorted(limb, key=_CHOICE_ORDER.__getitem__):
            name = next((n for n in _LIMB_ROLES[role] if n in own and n not in taken), None)
            if name is not None:
                roles[role] = own[name]
                taken.add(name)
    return roles


def _bare_names(names: Sequence[str]) -> list[str]:
    """Names without namespaces and prefixes of programs (`mixamorig:`, `Character1_`, `Bip01 `, `J_Bip_L_`)."""
    names = [re.split(r"[:|]", name)[-1].strip() for name in names]
    names = [re.sub(r"^J_Bip_([CLR])_", lambda match: _VRM_SIDES[match[1].lower()], name, flags=re.I) for name in names]
    prefix = os.path.commonprefix([name for name in names if not name.endswith("_end")])
    cut = len(re.match(r"(.*[\s_.\-])?", prefix)[0]) if len(names) > 1 else 0
    names = [name[cut:] or name for name in names]
    shared = [name for name in names if re.match(_PREFIX, name, re.I)]
    if 2 * len(shared) > len(names):  # the root may lack it
        names = [re.sub(f"^{_PREFIX}", "", name, flags=re.I) or name for name in names]
    return names


def _split_side(name: str) -> tuple[str, str]:
    """Side (`left`, `right` or empty) of a joint and the rest of its name, in lower case without separators."""
    words = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", name)
    words = re.sub(r"([A-Z])([A-Z][a-z])", r"\1 \2", words)
    parts = [part for part in re.split(r"[\s_.\-]+", words.lower()) if part]
    side = ""
    for position, part in enumerate(parts):
        for found, long in (("left", _LEFT_WORDS), ("right", _RIGHT_WORDS)):
            if part == found[0] and position in (0, len(parts) - 1):
                return found, "".join(parts[:position] + parts[position + 1 :])
            for word in long:
                if part.startswith(word):
                    rest = parts[:position] + [part[len(word) :]] + parts[position + 1 :]
                    return found, "".join(rest)
    return side, "".join(parts)


def _ancestors(index: int, parents: Sequence[int]) -> list[int]:
    """A joint and its ancestors, up to the root."""
    chain = []
    while index >= 0:
        chain.append(index)
        index = parents[index]
    return chain


def _common_ancestor(a: int, b: int, parents: Sequence[int]) -> int:
    others = set(_ancestors(b, parents))
    return next(i for i in _ancestors(a, parents)[1:] if i in others)
