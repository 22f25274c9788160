"""The .ply of Gaussians, read as 3DGS viewers do and by `load_ply`."""

import numpy as np
import pytest
import torch
from plyfile import PlyData

from core.export.ply import load_ply, save_ply
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import quat_to_matrix


@pytest.fixture
def gaussians():
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    return Gaussians(
        means=uniform(50, 3) - 0.5,
        quats=torch.nn.functional.normalize(uniform(50, 4) - 0.5, dim=-1),
        scales=uniform(50, 3) * 0.02 + 1e-3,
        opacities=uniform(50) * 0.98 + 0.01,
        colors=uniform(50, 3),
    )


def test_round_trip(gaussians, tmp_path):
    save_ply(tmp_path / "a.ply", gaussians)
    back = load_ply(tmp_path / "a.ply")
    for name in ("means", "scales", "opacities", "colors"):
        # float32 through a logarithm or a logit and back
        torch.testing.assert_close(getattr(back, name), getattr(gaussians, name), rtol=1e-5, atol=1e-6)
    # A quaternion and its negative are the same rotation.
    torch.testing.assert_close(quat_to_matrix(back.quats), quat_to_matrix(gaussians.quats), rtol=0, atol=1e-5)


def test_viewers_decode_the_same_gaussians(gaussians, tmp_path):
    """Decode as a viewer does; its frame is ours rotated by pi about x."""
    save_ply(tmp_path / "a.ply", gaussians)
    data = PlyData.read(str(tmp_path / "a.ply"))
    assert not data.text and data.byte_order == "<"
    vertices = data["vertex"]
    names = [p.name for p in vertices.properties]
    assert " ".join(names) == (
        "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    )
    assert all(p.val_dtype == "f4" for p in vertices.properties)

    def columns(*names):
        return torch.from_numpy(np.stack([vertices[name] for name in names], -1)).double()

    colors = 0.5 + 0.28209479177387814 * columns("f_dc_0", "f_dc_1", "f_dc_2")
    torch.testing.assert_close(colors, gaussians.colors.double(), rtol=0, atol=1e-6)
    opacities = 1 / (1 + torch.exp(-columns("opacity")[:, 0]))
    torch.testing.assert_close(opacities, gaussians.opacities.double(), rtol=0, atol=1e-6)

    half_turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(columns("x", "y", "z"), gaussians.means.double() @ half_turn, rtol=0, atol=1e-7)

    def covariances(quats, scales):
        axes = quat_to_matrix(quats) * scales[..., None, :]
        return axes @ axes.mT

    expected = half_turn @ covariances(gaussians.quats.double(), gaussians.scales.double()) @ half_turn
    actual = covariances(columns("rot_0", "rot_1", "rot_2", "rot_3"), columns("scale_0", "scale_1", "scale_2").exp())
    # Variances are up to (2.1 cm)^2 = 4.4e-4 m^2, stored in float32.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_extreme_opacities_stay_finite(gaussians, tmp_path):
    extreme = Gaussians(gaussians.means, gaussians.quats, gaussians.scales, torch.arange(50) % 2.0, gaussians.colors)
    save_ply(tmp_path / "a.ply", extreme)
    back = load_ply(tmp_path / "a.ply")
    assert torch.isfinite(torch.from_numpy(np.array(PlyData.read(str(tmp_path / "a.ply"))["vertex"]["opacity"]))).all()
    torch.testing.assert_close(back.opacities, extreme.opacities, rtol=0, atol=2e-6)


def test_a_batch_is_refused(gaussians, tmp_path):
    with pytest.raises(ValueError, match="batch axes"):
        save_ply(tmp_path / "a.ply", gaussians.map(lambda x: x[None]))
    assert not list(tmp_path.iterdir())


def test_unreadable_files_are_named(gaussians, tmp_path):
    broken = tmp_path / "broken.ply"
    save_ply(broken, gaussians)
    broken.write_bytes(broken.read_bytes()[:-100])
    text = tmp_path / "text.ply"
    text.write_text("no ply at all")
    mesh = tmp_path / "mesh.ply"
    mesh.write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
        "0 0 0\n"
    )
    for path in (broken, text, mesh, tmp_path / "absent.ply"):
        with pytest.raises(InputError, match=path.name):
            load_ply(path)
