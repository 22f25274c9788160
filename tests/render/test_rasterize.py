"""Output of `rasterize` against a plain evaluation of every pixel, and the laws that renderings obey."""

from dataclasses import replace

import pytest
import torch
from render_scenes import Scene, brute_force, crop_cameras, gradients, make_scene, render_bounded, take
from torch.utils._python_dispatch import TorchDispatchMode

from core.render import Rendering, rasterize
from core.types.gaussians import Gaussians
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_quat, quat_multiply


def assert_same(actual: Rendering, expected: Rendering, tolerance: float = 1e-10) -> None:
    """Compare images. In double precision, sums of dozens of terms differ by about 1e-14; 1e-10 is a wide margin."""
    assert actual.images.keys() == expected.images.keys()
    for name, image in expected.images.items():
        torch.testing.assert_close(actual.images[name], image.to(actual.images[name]), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"views": 2},
        {"size": 0.3, "count": 30},  # splats larger than the image
        {"size": 0.002, "count": 300},  # far smaller than a pixel
        {"width": 1, "height": 1},
        {"width": 4, "height": 8},  # tiles divide it
        {"width": 5, "height": 65},
    ],
)
def test_equals_brute_force(options):
    scene = make_scene(**options)
    actual = scene.render(return_depth=True, background=0.3)
    assert actual.alphas.max() > 0.01
    assert_same(actual, brute_force(scene, background=0.3))


def test_equals_brute_force_with_clamped_alphas_and_equal_depths():
    scene = make_scene(count=20)
    means = torch.zeros_like(scene.gaussians.means).add_(0.01)  # all at one point: they keep the order of the list
    scene = scene.with_gaussians(opacities=torch.ones_like(scene.gaussians.opacities), means=means)
    assert_same(scene.render(return_depth=True), brute_force(scene))


def test_single_precision():
    scene = make_scene(views=2)
    single = scene.to(torch.float32).render(return_depth=True)
    assert single.colors.dtype == single.depths.dtype == torch.float32
    # Rounding of 1e-7, amplified by the projection; a pixel at the cut alpha = 1/255 may differ by that much.
    exact = scene.render(return_depth=True)
    difference = (single.colors - exact.colors).abs()
    assert difference.median() < 1e-6
    assert (difference > 1e-5).float().mean() < 0.01
    assert difference.max() < 2 / 255


def test_compositing_does_not_stop_early():
    count = 16
    scene = make_scene(count=count)
    gaussians = Gaussians(
        means=torch.stack([torch.zeros(count), torch.zeros(count), 2 + torch.arange(count) * 0.01], -1),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        scales=torch.ones(count, 3),
        opacities=torch.full((count,), 0.9),
        colors=torch.eye(count)[:, -1:].expand(count, 3),  # all black but the last
    ).to(torch.float64)
    K = scene.cameras.Ks[:1].clone()
    K[0, 0, 2], K[0, 1, 2] = 1.5, 1.5
    rendering = rasterize(gaussians, torch.eye(4, dtype=torch.float64)[None], K, 3, 3, background=0.0)
    # 0.9 in float32, from which the opacities were converted.
    o = gaussians.opacities[0].item()
    torch.testing.assert_close(rendering.colors[0, 0, 1, 1].item(), o * (1 - o) ** (count - 1), rtol=1e-6, atol=0)


def test_moving_world_and_cameras_together_changes_no_pixel():
    scene = make_scene(views=2)
    rotation = axis_angle_to_matrix(torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64))
    shift = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    back = torch.eye(4, dtype=torch.float64)
    back[:3, :3], back[:3, 3] = rotation.T, -rotation.T @ shift
    g = scene.gaussians
    moved = Scene(
        replace(g, means=g.means @ rotation.T + shift, quats=quat_multiply(matrix_to_quat(rotation), g.quats)),
        scene.cameras.in_frame(back),
    )
    assert_same(moved.render(return_depth=True), scene.render(return_depth=True))


def test_order_in_the_list_changes_nothing():
    scene = make_scene()
    shuffled = take(scene.gaussians, torch.randperm(scene.gaussians.count, generator=torch.Generator().manual_seed(1)))
    assert_same(replace(scene, gaussians=shuffled).render(return_depth=True), scene.render(return_depth=True))


def test_background_has_the_weight_one_minus_alpha():
    scene = make_scene()
    background = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    black, colored = scene.render(background=0.0), scene.render(background=background)
    torch.testing.assert_close(colored.colors - black.colors, (1 - black.alphas) * background[:, None, None])
    torch.testing.assert_close(colored.alphas, black.alphas, rtol=0, atol=0)
    white = scene.render()
    assert_same(white, scene.render(background=1.0), 0)


@pytest.mark.parametrize("left, top, width, height", [(5, 3, 27, 21), (-6, -2, 47, 33)])
def test_a_cropped_camera_renders_the_crop(left, top, width, height):
    # Small Gaussians near the centre, so that the margin of no crop (FRUSTUM_MARGIN) reaches them.
    scene = make_scene(views=2, size=0.03)
    scene = scene.with_gaussians(means=scene.gaussians.means * 0.5)
    offset = torch.tensor([left, top], dtype=torch.float64)
    cropped = replace(scene, cameras=crop_cameras(scene.cameras, offset[0], offset[1], width, height))
    x0, x1 = max(left, 0), min(left + width, scene.cameras.width)
    y0, y1 = max(top, 0), min(top + height, scene.cameras.height)
    assert_same(
        cropped.render(return_depth=True).map(lambda x: x[..., y0 - top : y1 - top, x0 - left : x1 - left]),
        scene.render(return_depth=True).map(lambda x: x[..., y0:y1, x0:x1]),
    )


def test_a_resized_camera_renders_the_resized_image():
    scene = make_scene(width=64, height=48, size=0.15, count=20)
    large = replace(scene, cameras=scene.cameras.resized(128, 96)).render()
    halved = torch.nn.functional.avg_pool2d(large.colors, 2)
    # The dilation is 0.3 px^2 of either image, and the mean over four pixels is not the value at their centre.
    assert (halved - scene.render().colors).abs().max() < 0.02


def test_a_batch_equals_a_loop():
    scenes = [[make_scene(seed=10 * i + j, views=2) for j in range(3)] for i in range(2)]

    def stacked(get):
        return torch.stack([torch.stack([get(scene) for scene in row]) for row in scenes])

    gaussians = Gaussians(
        **{name: stacked(lambda s, n=name: getattr(s.gaussians, n)) for name in vars(scenes[0][0].gaussians)}
    )
    viewmats, Ks = stacked(lambda s: s.cameras.viewmats), stacked(lambda s: s.cameras.Ks)
    together = rasterize(gaussians, viewmats, Ks, 37, 29, return_depth=True)
    assert together.colors.shape == (2, 3, 2, 3, 29, 37)
    assert together.alphas.shape == together.depths.shape == (2, 3, 2, 1, 29, 37)
    for i in range(2):
        for j in range(3):
            alone = scenes[i][j].render(return_depth=True)
            assert_same(together.map(lambda x, i=i, j=j: x[i, j]), alone, 0)


@pytest.mark.parametrize("max_fragments, max_pairs", [(1, 1), (1000, 100)])
def test_bounds_on_memory_change_nothing(max_fragments, max_pairs):
    scene = make_scene(views=2)
    assert_same(render_bounded(scene, max_fragments, max_pairs), scene.render(return_depth=True))


@pytest.mark.parametrize("keep", ["none", "transparent", "behind", "beside"])
def test_invisible_gaussians_leave_the_background(keep):
    scene = make_scene(views=2)
    g = scene.gaussians
    gaussians = {
        "none": take(g, torch.zeros(0, dtype=torch.long)),
        "transparent": replace(g, opacities=torch.full_like(g.opacities, 1 / 256)),
        "behind": replace(g, means=g.means + 2 * scene.cameras.centers[0] + torch.tensor([0.0, 100, 0])),
        "beside": replace(g, means=g.means + torch.tensor([0.0, 50, 0])),
    }[keep]
    gaussians = gaussians.map(lambda x: x.clone().requires_grad_())
    rendering = Scene(gaussians, scene.cameras).render(return_depth=True, background=0.25)
    assert (rendering.colors == 0.25).all()
    assert (rendering.alphas == 0).all() and (rendering.depths == 0).all()
    rendering.colors.sum().backward()  # the autograd graph is connected, and its gradients are zero
    assert gaussians.means.grad is not None and (gaussians.means.grad == 0).all()


def test_depth_of_a_plane_is_its_distance():
    # A wall of flat Gaussians at z = 3, seen from the origin: all at one depth along the axis.
    grid = torch.linspace(-1, 1, 15, dtype=torch.float64)
    means = torch.stack(
        [*torch.meshgrid(grid, grid, indexing="ij"), torch.full((15, 15), 3.0, dtype=torch.float64)], -1
    )
    means = means.view(-1, 3)
    wall = Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(225, 4),
        scales=torch.tensor([0.1, 0.1, 1e-4], dtype=torch.float64).expand(225, 3),
        opacities=torch.full((225,), 0.5, dtype=torch.float64),
        colors=torch.zeros(225, 3, dtype=torch.float64),
    )
    K = torch.tensor([[40.0, 0, 24], [0, 40, 24], [0, 0, 1]], dtype=torch.float64)
    rendering = rasterize(wall, torch.eye(4, dtype=torch.float64)[None], K[None], 48, 48, return_depth=True)
    seen = rendering.alphas > 0
    assert seen.any() and (~seen).any()
    torch.testing.assert_close(rendering.depths[seen], torch.full_like(rendering.depths[seen], 3.0))
    assert (rendering.depths[~seen] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_does_not_reach_the_rasterizer(dtype):
    scene = make_scene().to(torch.float32)
    expected = scene.render()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = scene.render()
    assert_same(actual, expected, 0)
    half = replace(scene, gaussians=scene.gaussians.to(dtype))
    rendering = half.render()
    assert rendering.colors.dtype == torch.float32
    assert_same(rendering, replace(scene, gaussians=half.gaussians.to(torch.float32)).render(), 0)


def test_a_huge_gaussian_covers_all_pixels():
    scene = make_scene(count=1).to(torch.float32)
    scene = scene.with_gaussians(scales=torch.full((1, 3), 1e6), opacities=torch.full((1,), 0.5))
    rendering = scene.render()
    torch.testing.assert_close(rendering.alphas, torch.full_like(rendering.alphas, 0.5), rtol=0, atol=1e-3)


class LargestTensor(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_memory_is_bounded_for_any_number_of_fragments():
    # 200 splats that cover all of 128 x 128 pixels: 3 million (pixel, splat) and 200,000 (tile, splat) pairs.
    scene = make_scene(count=200, width=128, height=128).to(torch.float32)
    scene = scene.with_gaussians(scales=torch.ones(200, 3), opacities=torch.full((200,), 0.02))

    def bounded(scene: Scene) -> Rendering:
        return render_bounded(scene, max_fragments=2**16, max_pairs=2**16)

    with LargestTensor() as largest:
        rendering = bounded(scene)
        gradients(bounded, scene)
    assert rendering.alphas.min() > 0.9
    assert largest.bytes <= 8 * 2**16
