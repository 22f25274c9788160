"""Exports, read back by the libraries of others."""

import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.spatial.transform import Rotation

from core.avatar.avatar import TENSOR_FIELDS, Avatar, canonical_gaussians, pose_avatar
from core.avatar.file import save_avatar
from core.export.glb import save_mesh_glb, save_splats_glb
from core.export.ply import SH_C0, in_viewer_axes, load_ply, save_ply
from core.export.quantized import dequantize, load_any_avatar, load_quantized, quantize, save_quantized
from core.export.rig import skinning_table
from core.export.splats import save_converted, save_splat
from core.export.splattie import save_splattie
from core.export.usd import save_usd
from core.export.vertex_colors import vertex_colors
from core.motion.builtin import builtin_motion
from core.motion.motion import apply_motion, resample
from core.types.gaussians import Gaussians
from scripts.export import main
from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.errors import InputError
from smpl_renderer.normals import vertex_normals


@pytest.fixture(scope="module")
def avatar(body) -> Avatar:
    """2,000 random Gaussians near the surface of a body with a shape."""
    g = torch.Generator().manual_seed(0)
    count = 2000
    return Avatar(
        offsets=0.01 * torch.randn(count, 3, generator=g),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        scales=0.003 + 0.02 * torch.rand(count, 3, generator=g),
        opacities=0.1 + 0.85 * torch.rand(count, generator=g),
        colors=0.05 + 0.9 * torch.rand(count, 3, generator=g),
        vertex_ids=torch.randint(0, body.num_vertices, (count,), generator=g),
        betas=torch.tensor([0.8, -0.5] + [0.0] * (body.num_betas - 2)),
        body=body.fingerprint,
    )


@pytest.fixture(scope="module")
def gaussians(avatar, body) -> Gaussians:
    return canonical_gaussians(avatar, body)


def covariances(quats_wxyz: np.ndarray, scales: np.ndarray) -> np.ndarray:
    R = Rotation.from_quat(quats_wxyz[:, [1, 2, 3, 0]]).as_matrix()
    return np.einsum("nij,nj,nkj->nik", R, scales**2, R)


def compare(gaussians: Gaussians, means, quats, scales, opacities, colors, tolerance, atol=1e-4):
    """Compare what a reader gives, in axes with y down, with Gaussians in axes with y up, matched by their centres."""
    from scipy.spatial import cKDTree

    flip = np.array([1.0, -1.0, -1.0])
    distance, index = cKDTree(means * flip).query(gaussians.means.numpy())
    assert distance.max() < atol and len(set(index)) == len(gaussians.means)
    found = covariances(quats[index], scales[index]) * flip[:, None] * flip
    expected = covariances(gaussians.quats.numpy(), gaussians.scales.numpy())
    relative = np.linalg.norm(found - expected, axis=(1, 2)) / np.linalg.norm(expected, axis=(1, 2))
    assert np.quantile(relative, 0.99) < tolerance, np.quantile(relative, [0.5, 0.9, 0.99, 1])
    np.testing.assert_allclose(opacities[index], gaussians.opacities.numpy(), atol=tolerance)
    np.testing.assert_allclose(colors[index], gaussians.colors.numpy(), atol=tolerance)


def from_gsply(data) -> tuple[np.ndarray, ...]:
    """Means, quats, scales, opacities and colours of gsply's container, activated."""
    opacities = 1 / (1 + np.exp(-np.asarray(data.opacities, np.float64)))
    return data.means, data.quats, np.exp(data.scales), opacities, 0.5 + SH_C0 * data.sh0


@pytest.mark.parametrize(
    ("file_format", "tolerance", "atol"),
    # Bits of each format: scales of spz have steps of 1/16 in the logarithm, those of the others are finer.
    [("compressed.ply", 0.05, 0.003), ("spz", 0.15, 1e-3), ("sog", 0.15, 1e-3)],
)
def test_compressed_formats_are_read_by_gsply(gaussians, tmp_path, file_format, tolerance, atol):
    pytest.importorskip("gaussforge")
    gsply = pytest.importorskip("gsply")
    if file_format == "sog":
        pytest.importorskip("imagecodecs")
    path = tmp_path / f"a.{file_format}"
    save_converted(path, gaussians, file_format)
    if file_format == "sog":
        from gsply.sog_reader import sogread as read
    else:
        read = {"spz": gsply.read_spz}.get(file_format, gsply.plyread)
    # SPZ has y up: https://github.com/nianticlabs/spz, "Coordinate System"; gsply does not turn it.
    stored = in_viewer_axes(gaussians) if file_format == "spz" else gaussians
    compare(stored, *from_gsply(read(str(path))), tolerance, atol)


@pytest.mark.parametrize("degree", [0, 3])
def test_ply_is_read_by_gsply(gaussians, tmp_path, degree):
    gsply = pytest.importorskip("gsply")
    save_ply(tmp_path / "a.ply", gaussians, degree)
    compare(gaussians, *from_gsply(gsply.plyread(str(tmp_path / "a.ply"))), 1e-4, 1e-6)


def test_splat_is_read_by_gaussforge(gaussians, tmp_path):
    gaussforge = pytest.importorskip("gaussforge")
    path = tmp_path / "a.splat"
    save_splat(path, gaussians)
    assert path.stat().st_size == 32 * len(gaussians.means)
    converted = gaussforge.GaussForge().convert(path.read_bytes(), "splat", "ply")
    (tmp_path / "a.ply").write_bytes(converted["data"])
    from plyfile import PlyData

    rows = PlyData.read(str(tmp_path / "a.ply"))["vertex"]

    def columns(*names):
        return np.stack([rows[name] for name in names], -1).astype(np.float64)

    quats, scales = columns("rot_0", "rot_1", "rot_2", "rot_3"), np.exp(columns("scale_0", "scale_1", "scale_2"))
    opacities = 1 / (1 + np.exp(-columns("opacity")[:, 0]))
    colors = 0.5 + SH_C0 * columns("f_dc_0", "f_dc_1", "f_dc_2")
    compare(gaussians, columns("x", "y", "z"), quats, scales, opacities, colors, 0.05)


def test_a_missing_package_is_named(gaussians, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gaussforge", None)
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    with pytest.raises(InputError, match="pip install gaussforge"):
        save_converted(tmp_path / "a.spz", gaussians, "spz")
    with pytest.raises(InputError, match="pip install usd-core"):
        save_usd(tmp_path / "a.usd", gaussians)


def read_accessor(gltf, index: int) -> np.ndarray:
    accessor = gltf.accessors[index]
    view = gltf.bufferViews[accessor.bufferView]
    kind = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}[accessor.componentType]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor.type]
    start = (view.byteOffset or 0) + (accessor.byteOffset or 0)
    return np.frombuffer(gltf.binary_blob(), kind, accessor.count * width, start).reshape(accessor.count, width)


def joint_matrices(gltf, animation, frame: int) -> np.ndarray:
    """Matrices [J, 4, 4] of a skin in a frame of an animation, as the glTF specification defines them."""
    local = {}
    for i, node in enumerate(gltf.nodes):
        local[i] = [np.array(node.translation or [0, 0, 0], np.float64), np.array([0, 0, 0, 1.0])]
    for channel in animation.channels:
        values = read_accessor(gltf, animation.samplers[channel.sampler].output)
        local[channel.target.node][("translation", "rotation").index(channel.target.path)] = values[frame]
    world = {}

    def visit(node: int, parent: np.ndarray) -> None:
        T = np.eye(4)
        T[:3, :3] = Rotation.from_quat(local[node][1]).as_matrix()
        T[:3, 3] = local[node][0]
        world[node] = parent @ T
        for child in gltf.nodes[node].children or ():
            visit(child, world[node])

    for root in gltf.scenes[gltf.scene].nodes:
        visit(root, np.eye(4))
    skin = gltf.skins[0]
    inverse = read_accessor(gltf, skin.inverseBindMatrices).reshape(-1, 4, 4).swapaxes(1, 2)
    return np.stack([world[joint] @ inverse[i] for i, joint in enumerate(skin.joints)])


def skinned(points: np.ndarray, joints: np.ndarray, weights: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    blended = np.einsum("nk,nkij->nij", weights, matrices[joints])
    return np.einsum("nij,nj->ni", blended[:, :3, :3], points) + blended[:, :3, 3]


@pytest.mark.slow
def test_glb_bones_move_the_mesh_as_the_body_moves(avatar, body, tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    trimesh = pytest.importorskip("trimesh")
    walk = resample(builtin_motion("walk", body), 10.0)
    save_mesh_glb(tmp_path / "a.glb", avatar, body, [walk, builtin_motion("squat", body)])
    gltf = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert [a.name for a in gltf.animations] == ["walk", "squat"]
    assert [node.name for node in gltf.nodes[:24]] == list(JOINT_NAMES)
    attributes = gltf.meshes[0].primitives[0].attributes
    points, joints, weights = (
        read_accessor(gltf, getattr(attributes, name)) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0")
    )
    times = read_accessor(gltf, gltf.animations[0].samplers[0].input)
    assert times[-1, 0] == pytest.approx(len(walk) / walk.fps)  # the loop closes
    poses = apply_motion(walk, body, avatar.betas)
    for frame in (0, 4):
        moved = skinned(points.astype(np.float64), joints, weights, joint_matrices(gltf, gltf.animations[0], frame))
        expected = body(poses[frame : frame + 1]).vertices[0].numpy()
        # Pose correctives are left out: some millimetres.
        assert np.linalg.norm(moved - expected, axis=1).mean() < 0.004
        hands = np.linalg.norm(moved - expected, axis=1).max()
        assert hands < 0.03

    scene = trimesh.load(tmp_path / "a.glb")
    (mesh,) = scene.geometry.values()
    assert len(mesh.faces) == len(body.faces)
    np.testing.assert_allclose(mesh.bounds[1] - mesh.bounds[0], np.ptp(points, axis=0), atol=1e-5)
    linear = read_accessor(gltf, attributes.COLOR_0)
    display = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(display, vertex_colors(avatar, body), atol=1e-5)


def layer(body, height: float, colors: torch.Tensor, opacity: float, ids: torch.Tensor) -> Avatar:
    """A Gaussian of 8 mm at a height above each of some vertices."""
    normals = vertex_normals(body.v_template, body.faces)[ids]
    count = len(ids)
    return Avatar(
        offsets=height * normals,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        scales=torch.full((count, 3), 0.008),
        opacities=torch.full((count,), opacity),
        colors=colors.expand(count, 3),
        vertex_ids=ids,
        betas=torch.zeros(body.num_betas),
        body=body.fingerprint,
    )


def joined(*avatars: Avatar) -> Avatar:
    names = [name for name in TENSOR_FIELDS if name != "betas"]
    return replace(avatars[0], **{name: torch.cat([getattr(a, name) for a in avatars]) for name in names})


def test_vertex_colors_are_those_of_the_outer_layer(body):
    """Skin under cloth; where the cloth ends there is skin, and where there is nothing, the nearest colour."""
    red, blue = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    heights = body.v_template[:, 1]
    covered = torch.nonzero(heights < -0.3)[:, 0]
    skin = layer(body, 0.0, red, 0.9, torch.nonzero(heights < 0.2)[:, 0])
    colors = vertex_colors(joined(skin, layer(body, 0.03, blue, 0.98, covered)), body)
    assert colors.shape == (body.num_vertices, 3)
    # Rays at the border, and in folds where layers cross, see both.
    assert np.abs(colors[(heights < -0.35).numpy()] - blue.numpy()).mean(0).max() < 0.06
    np.testing.assert_allclose(colors[(heights > -0.2).numpy()], red.expand(int((heights > -0.2).sum()), 3), atol=1e-5)


@pytest.mark.slow
def test_surfaces_that_face_the_other_way_do_not_count(body):
    """Gaussians in front of the chest that follow the back, as those of an arm are in front of the armpit."""
    red, blue = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    normals = vertex_normals(body.v_template, body.faces)
    trunk = body.lbs_weights[:, JOINT_NAMES.index("spine2")] > 0.5
    chest, back = (torch.nonzero(trunk & (sign * normals[:, 2] > 0.7))[:, 0] for sign in (1, -1))
    skin, outer = layer(body, 0.0, red, 0.9, torch.arange(body.num_vertices)), layer(body, 0.03, blue, 0.98, chest)
    assert np.abs(vertex_colors(joined(skin, outer), body)[chest] - blue.numpy()).mean() < 0.1
    other = back[torch.arange(len(chest)) % len(back)]
    moved = replace(outer, vertex_ids=other, offsets=outer.offsets + body.v_template[chest] - body.v_template[other])
    np.testing.assert_allclose(vertex_colors(joined(skin, moved), body)[chest], red.expand(len(chest), 3), atol=1e-5)


def test_splats_glb_follows_the_extension_and_moves_as_the_avatar(avatar, gaussians, body, tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    squat = resample(builtin_motion("squat", body), 10.0)
    save_splats_glb(tmp_path / "a.glb", avatar, body, [squat])
    gltf = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert gltf.extensionsUsed == ["KHR_gaussian_splatting"]
    primitive = gltf.meshes[0].primitives[0]
    assert primitive.mode == 0 and primitive.extensions["KHR_gaussian_splatting"]["kernel"] == "ellipse"
    description = json.loads(gltf.to_json())["meshes"][0]["primitives"][0]["attributes"]
    prefix = "KHR_gaussian_splatting:"
    means = read_accessor(gltf, description["POSITION"])
    quats, scales, opacities, harmonics = (
        read_accessor(gltf, description[prefix + name])
        for name in ("ROTATION", "SCALE", "OPACITY", "SH_DEGREE_0_COEF_0")
    )
    np.testing.assert_allclose(means, gaussians.means, atol=1e-6)
    found = covariances(quats[:, [3, 0, 1, 2]].astype(np.float64), scales.astype(np.float64))
    np.testing.assert_allclose(found, covariances(gaussians.quats.numpy(), gaussians.scales.numpy()), atol=1e-9)
    np.testing.assert_allclose(opacities[:, 0], gaussians.opacities, atol=1e-6)
    np.testing.assert_allclose(0.5 + SH_C0 * harmonics, gaussians.colors, atol=1e-6)

    skinning = primitive.extras["hgg_skinning"]
    joints, weights = (read_accessor(gltf, skinning[name]) for name in ("joints", "weights"))
    moved = skinned(means.astype(np.float64), joints, weights, joint_matrices(gltf, gltf.animations[0], 5))
    expected = pose_avatar(avatar, body, apply_motion(squat, body, avatar.betas)[5:6])[0].means.numpy()
    assert np.linalg.norm(moved - expected, axis=1).mean() < 0.006


def test_usd_is_read_by_openusd(gaussians, tmp_path):
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom, UsdVol

    save_usd(tmp_path / "a.usdc", gaussians)
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    prim = stage.GetDefaultPrim()
    assert prim.IsA(UsdVol.ParticleField3DGaussianSplat)

    def get(name):
        return prim.GetAttribute(name).Get()

    np.testing.assert_allclose(np.array(get("positions")), gaussians.means, atol=1e-6)
    quats = np.array([[q.GetReal(), *q.GetImaginary()] for q in get("orientations")])
    found = covariances(quats, np.array(get("scales"), np.float64))
    np.testing.assert_allclose(found, covariances(gaussians.quats.numpy(), gaussians.scales.numpy()), atol=1e-9)
    colors = 0.5 + SH_C0 * np.array(get("radiance:sphericalHarmonicsCoefficients"))
    np.testing.assert_allclose(colors, gaussians.colors, atol=1e-6)
    np.testing.assert_allclose(np.array(get("opacities")), gaussians.opacities, atol=1e-6)


def test_splattie_holds_rig_and_weights(avatar, gaussians, body, tmp_path):
    """Read as the format's description says, with the standard library and plyfile."""
    save_splattie(tmp_path / "a.splattie", avatar, body)
    with zipfile.ZipFile(tmp_path / "a.splattie") as archive:
        archive.extractall(tmp_path / "content")
    manifest, skeleton = (
        json.loads((tmp_path / "content" / f"{n}.json").read_text()) for n in ("manifest", "skeleton")
    )
    assert manifest["format"] == "splattie" and manifest["avatar"]["splat"]["numGaussians"] == avatar.count
    data = (tmp_path / "content" / manifest["animation"]["weights"]["file"]).read_bytes()
    magic, version, count, joints, influences = struct.unpack_from("<4sIIII", data)
    assert (magic, version, count, joints) == (b"LBSW", 1, avatar.count, 24)
    size = count * influences
    indices = np.frombuffer(data, "<u2", size, 20).reshape(count, influences)
    weights = np.frombuffer(data, "<f2", size, 20 + 2 * size).reshape(count, influences)
    np.testing.assert_allclose(weights.astype(np.float32).sum(1), 1, atol=2e-3)
    expected = skinning_table(body)
    np.testing.assert_array_equal(indices, expected[0][avatar.vertex_ids.numpy()])
    read = load_ply(tmp_path / "content" / manifest["avatar"]["splat"]["file"])
    torch.testing.assert_close(read.means, gaussians.means, atol=1e-5, rtol=0)
    # The head's Gaussians are near the head's joint, in the same axes.
    head = JOINT_NAMES.index("head")
    own = (indices[:, 0] == head) & (weights[:, 0] > 0.9)
    place = np.array(skeleton["restPositions"][head]) * [1, -1, -1]
    assert np.linalg.norm(read.means.numpy()[own] - place, axis=1).mean() < 0.2


def test_8_bit_avatars(avatar, body, tmp_path):
    path = tmp_path / "a.8bit.safetensors"
    save_quantized(path, quantize(avatar, body.num_vertices))
    read = load_any_avatar(path)
    order = avatar.vertex_ids.argsort(stable=True)
    assert (read.vertex_ids == avatar.vertex_ids[order]).all() and read.body == avatar.body
    assert (read.offsets - avatar.offsets[order]).abs().max() < 0.002
    assert (read.colors - avatar.colors[order]).abs().max() <= 0.5 / 255 + 1e-6
    assert ((read.scales / avatar.scales[order]).log().abs().max()) < 0.01
    assert (read.quats * avatar.quats[order]).sum(-1).abs().min() > 0.9998
    again = quantize(read, body.num_vertices)
    assert (again.colors == load_quantized(path).colors).all()  # quantization is idempotent
    faint = replace(avatar, opacities=torch.cat([torch.zeros(500), avatar.opacities[500:]]))
    assert dequantize(quantize(faint, body.num_vertices)).count == 1500
    with pytest.raises(InputError, match="no visible"):
        quantize(replace(avatar, opacities=0 * avatar.opacities), body.num_vertices)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", lambda x: x[:-1000]),
        ("counts", lambda x: x.astype(np.int64)),
        ("offsets", lambda x: x[:, :2]),
        ("quats", lambda x: 0 * x),
        ("colors", lambda x: x.astype(np.float32)),
        ("opacities", lambda x: x[1:]),
        ("betas", lambda x: x + np.float32("nan")),
        ("limits", None),
        ("limits", "{}"),
        ("limits", '{"offset": 1e308, "log_scales": [-5, 1]}'),
        ("limits", '{"offset": NaN, "log_scales": [-5, 1]}'),
        ("limits", '{"offset": 1, "log_scales": [-5, 1' + "0" * 400 + "]}"),
        ("body", None),
    ],
)
def test_tampered_8_bit_avatars_are_refused(avatar, body, tmp_path, name, value):
    path = tmp_path / "a.safetensors"
    save_quantized(path, quantize(avatar, body.num_vertices))
    with safe_open(path, "np") as file:
        metadata, arrays = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if name in arrays:
        arrays[name] = np.ascontiguousarray(value(arrays[name]))
    else:
        metadata[name] = value
    save_file(arrays, path, {key: text for key, text in metadata.items() if text is not None})
    with pytest.raises(InputError, match=r"a\.safetensors: holds no 8-bit avatar"):
        load_any_avatar(path)


@pytest.mark.slow
def test_script_writes_poses_and_sequences(avatar, body, tmp_path):
    source = tmp_path / "me" / "avatar.safetensors"
    source.parent.mkdir()
    save_avatar(source, avatar)
    main(source, "ply", ply_degree=3)
    rest = load_ply(source.with_suffix(".ply"))
    torch.testing.assert_close(rest.means, canonical_gaussians(avatar, body).means, atol=1e-5, rtol=0)
    main(source, "ply", tmp_path / "posed.ply", motion=("squat",), time=1.0)
    posed = load_ply(tmp_path / "posed.ply")
    squat = builtin_motion("squat", body)
    expected = pose_avatar(avatar, body, apply_motion(squat, body, avatar.betas)[30:31])[0]
    torch.testing.assert_close(posed.means, expected.means, atol=1e-5, rtol=0)
    main(source, "splat", tmp_path / "frames", motion=("walk",), fps=4)
    files = sorted((tmp_path / "frames").iterdir())
    assert [f.name for f in files] == [f"{i:05d}.splat" for i in range(len(files))] and len(files) == 5
    main(source, "ply", motion=("walk",), fps=2)
    assert (source.parent / "avatar_walk" / "00000.ply").is_file()
    main(source, "8bit")
    main(Path(source.with_suffix(".8bit.safetensors")), "splat", tmp_path / "b.splat")
    for arguments, message in (
        ({"to": "ply", "time": 1.0}, "--time"),
        ({"to": "splattie", "motion": ("walk",)}, "no motion"),
        ({"to": "ply", "motion": ("walk", "dance")}, "one motion"),
        ({"to": "splat", "motion": ("walk",), "out": tmp_path / "frames"}, "exists"),
        ({"to": "ply", "out": tmp_path / "a.glb"}, r"--to ply has \.ply"),
        ({"to": "usd", "out": tmp_path / "a.bin"}, r"\.usda"),
    ):
        with pytest.raises(InputError, match=message):
            main(source, **arguments)
