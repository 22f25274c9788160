"""Backend `triton` against the definition, by stages and as a whole.

Without a CUDA device the kernels run in Triton's interpreter (`tests/conftest.py`).
"""

import logging
from dataclasses import replace

import pytest
import torch
from render_scenes import Scene, gradients, hard_scene, make_scene, stacked, take
from torch import Tensor

pytest.importorskip("triton")

from core.render import Rendering, backends, binning_kernel, rasterize, triton_backend
from core.render.binning_kernel import bin_tiles
from core.render.capacity import CapacityEstimator, capacity_estimator
from core.render.launch import ALIGNMENT, aligned
from core.render.projection import ALPHA_MIN
from core.render.projection_kernel import project, project_backward
from core.render.splat_table import DepthOrder, depth_keys_reference, splat_table_reference
from smpl_renderer.errors import InputError

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def single(scene: Scene) -> Scene:
    """Round a scene to the precision of the kernels, and move it to their device."""
    return scene.to(torch.float32).to(DEVICE)


def assert_same_images(actual, expected, max_error: float = 1e-4, mean_error: float = 2e-5) -> None:
    for name in ("colors", "alphas"):
        difference = (getattr(actual, name).double() - getattr(expected, name)).abs()
        assert difference.max() < max_error, name
        assert difference.mean() < mean_error, name
    if expected.depths is not None:
        # A quotient: compare it where alpha is not small.
        difference = (actual.depths.double() - expected.depths).abs()[expected.alphas > 0.05]
        assert difference.max() < 1e-3


def assert_same_gradients(scene: Scene, of_cameras: bool = False, tolerance: float = 1e-3, **options) -> None:
    """Compare the gradient of each tensor: relative error in the Euclidean norm."""

    def render(s: Scene, backend: str):
        cameras = s.cameras if of_cameras else scene.cameras.to(s.cameras.Ks.dtype)
        return Scene(s.gaussians, cameras).render(backend=backend, **options)

    actual = gradients(lambda s: render(s, "triton"), scene)
    expected = gradients(lambda s: render(s, "torch"), scene.to(torch.float64))
    assert ("viewmats" in actual) == of_cameras
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert value.isfinite().all(), name
        error = (value.double() - expected[name]).norm() / expected[name].norm()
        assert error < tolerance, (name, float(error))


def test_projection_matches_reference():
    scene = single(stacked(hard_scene(seed=1, count=70, views=2), hard_scene(seed=2, count=70, views=2)))
    g, c = scene.gaussians, scene.cameras
    size = c.width, c.height
    table, order = project(g, c.viewmats, c.Ks, *size)
    double = scene.to(torch.float64)
    inputs = double.gaussians.map(lambda x: x.clone().requires_grad_())
    expected = splat_table_reference(inputs, double.cameras.viewmats, double.cameras.Ks, *size)
    used = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    for a, e in zip(table[..., used].unbind(-1), expected.detach()[..., used].unbind(-1)):
        torch.testing.assert_close(a.double(), e, rtol=2e-5, atol=2e-5)
    assert (order.keys == depth_keys_reference(table, g.means, c.viewmats)).all()

    cotangents = torch.zeros_like(expected)
    cotangents[..., used] = torch.randn(2, 2, 70, 10, generator=torch.Generator().manual_seed(0)).to(expected)
    cotangents *= table[..., 5:6].isfinite()
    loss = torch.where(expected.isfinite(), expected, 0.0).mul(cotangents).sum()
    expected_grads = torch.autograd.grad(loss, list(vars(inputs).values()))
    actual_grads = project_backward(g, c.viewmats, c.Ks, *size, cotangents.float())
    for a, e in zip(vars(actual_grads).values(), expected_grads):
        assert (a.double() - e).norm() < 1e-5 * e.norm()


def listed(scene: Scene, tile: int, by_sorting: bool = False) -> tuple[Tensor, list[list[int]]]:
    """The splat table, and the indices listed for each tile."""
    g, c = scene.gaussians.map(lambda x: x[None]), scene.cameras
    table, order = project(g, c.viewmats[None].contiguous(), c.Ks[None].contiguous(), c.width, c.height)
    lists = bin_tiles(table, DepthOrder(order.keys) if by_sorting else order, c.width, c.height, tile)
    assert int(lists.used) <= lists.capacity
    slots = lists.slots.tolist()
    assert sorted(slots[: order.keys.numel()]) == list(range(order.keys.numel()))  # ranks are unique
    return table.double(), [slots[first:last] for first, last in lists.ranges.tolist()]


def reached(table: Tensor, width: int, height: int, tile: int) -> Tensor:
    """Whether each splat has alpha >= ALPHA_MIN at a pixel of each tile, by brute force: [splats, tiles]."""
    splats = table.flatten(0, 2)
    x = torch.arange(width, device=table.device) + 0.5 - splats[:, 0, None]
    y = torch.arange(height, device=table.device) + 0.5 - splats[:, 1, None]
    u = splats[:, 2, None, None] * x[:, None, :] + splats[:, 3, None, None] * y[:, :, None]
    v = splats[:, 4, None, None] * y[:, :, None]
    seen = torch.exp2(splats[:, 5, None, None] - u * u - v * v) >= ALPHA_MIN
    seen = torch.nn.functional.pad(seen, (0, -width % tile, 0, -height % tile))
    return seen.unflatten(2, (-1, tile)).unflatten(1, (-1, tile)).any(4).any(2).flatten(1)


@pytest.mark.parametrize("tile, size", [(8, 37), (16, 50)])
def test_tiles_list_the_splats_that_reach_them_from_near_to_far(tile, size):
    scene = single(hard_scene(count=60, views=2, width=size, height=size - 8))
    table, lists = listed(scene, tile)
    needed = reached(table, size, size - 8, tile)
    tiles = needed.shape[1]
    surplus = 0
    for number, splats in enumerate(lists):
        view, place = divmod(number, tiles)
        own = needed.clone()[:, place]
        own[: view * 60] = own[(view + 1) * 60 :] = False
        wanted = own.nonzero().flatten().tolist()
        assert set(wanted) <= set(splats)
        assert len(set(splats)) == len(splats)
        surplus += len(splats) - len(wanted)
        depths = scene.to(torch.float64).cameras.project(scene.gaussians.means.double())[1].flatten()[splats]
        assert (depths.diff() >= 0).all()
    # The ellipse may pass between pixel centres; its bounding box would list about 50 % more.
    assert surplus < 0.15 * needed.sum()


@pytest.mark.slow
@pytest.mark.parametrize("side", [2, 4, 16])
def test_cells_of_any_size_give_the_same_lists(side, monkeypatch):
    """Many splats on a large image use larger cells, to limit the memory of the bit sets."""
    scene = single(hard_scene(seed=7, count=70, views=2, width=75, height=58))
    _, expected = listed(scene, 8)
    monkeypatch.setattr(binning_kernel, "cell_side", lambda *_: side)
    capacity_estimator.cache_clear()  # larger cells need more slots
    _, lists = listed(scene, 8)
    assert lists == expected


@pytest.mark.parametrize("by_sorting", [False, True])
def test_depths_are_compared_in_double_precision(by_sorting):
    scene = make_scene(count=40)
    directions = scene.cameras.viewmats[0, 2, :3]
    # Near a plane perpendicular to the optical axis: in single precision most depths are equal.
    means = 0.3 * scene.gaussians.means
    means = means - (means @ directions)[:, None] * directions
    scene = single(scene.with_gaussians(means=means))
    _, lists = listed(scene, 16, by_sorting)
    depths = scene.to(torch.float64).cameras.project(scene.gaussians.means.double())[1].flatten()
    assert len(depths.float().unique()) < 30
    for splats in lists:
        assert (depths[splats].diff() >= 0).all()


@pytest.mark.slow
def test_a_crowded_bucket_is_sorted_from_the_next_call_on():
    scene = make_scene(count=600, width=13, height=11, size=0.1)
    scene = single(scene.with_gaussians(means=0 * scene.gaussians.means))
    _, expected = listed(scene, 8)
    estimator = capacity_estimator(scene.cameras.Ks.device, 1, 600, 13, 11, 8, None)
    assert not estimator.is_crowded
    _, lists = listed(scene, 8)
    assert estimator.is_crowded
    assert lists == expected and sorted(lists[0]) == lists[0]  # equal depths keep their order


def test_cells_grow_with_the_memory_of_their_bit_sets_up_to_a_bound():
    assert binning_kernel.cell_side(8, 28_000, 64 * 64) == 2
    assert binning_kernel.cell_side(64, 100_000, 128 * 128) == 4
    assert binning_kernel.cell_side(1, 10_000_000, 480 * 270) == 8
    assert binning_kernel.cell_side(1000, 100_000, 8 * 8) == 2


def test_the_estimated_capacity_has_a_limit():
    estimator = CapacityEstimator(5000, 10_000, on_cuda=False)
    assert estimator.update(4500) and estimator.capacity == 6144
    estimator.overflow.fill_(2**40)
    estimator.read_reports()
    assert estimator.capacity == 10_000 and not estimator.overflow


def test_a_given_capacity_is_kept_and_overflows_are_reported(caplog):
    scene = single(make_scene(seed=8, count=40, views=2, width=17, height=11))
    g, c = scene.gaussians, scene.cameras
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            triton_backend.rasterize(g, c.viewmats, c.Ks, 17, 11, torch.ones(3, device=DEVICE), False, capacity=9)
            if scene.cameras.Ks.is_cuda:
                torch.cuda.synchronize()
    assert (
        sum("capacity of 9" in message for message in caplog.messages) == 1
    )  # the second call reports the overflow of the first
    with pytest.raises(ValueError, match="capacity"):
        triton_backend.rasterize(g, c.viewmats, c.Ks, 17, 11, torch.ones(3, device=DEVICE), False, capacity=-1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy, in the interpreter
@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gaussian_that_is_not_finite_changes_no_other_gradient(name, value):
    scene = single(make_scene(seed=9, count=12, views=2, width=13, height=9))
    attribute = getattr(scene.gaussians, name).clone()
    attribute[5] = value
    broken = scene.with_gaussians(**{name: attribute})
    cameras = broken.cameras
    grads = gradients(lambda s: Scene(s.gaussians, cameras).render(backend="triton"), broken)
    others = torch.arange(12, device=DEVICE) != 5
    if name == "colors":  # reaches the pixels, hence the gradients of all Gaussians there
        others &= False
    for key in ("means", "quats", "scales", "opacities", "colors"):
        assert grads[key][others].isfinite().all(), key


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy, in the interpreter
def test_a_gaussian_of_opacity_0_may_have_any_values():
    scene = single(make_scene(seed=10, count=14, views=1, width=13, height=9))
    g = scene.gaussians.map(torch.clone)
    g.opacities[3] = 0
    expected = replace(scene, gaussians=g).render(backend="triton").colors
    for value in (float("nan"), float("inf")):
        g.colors[3], g.means[3] = value, value
        c = scene.cameras
        for capacity in (None, 2):
            drawn = triton_backend.rasterize(
                g, c.viewmats, c.Ks, 13, 9, torch.ones(3, device=DEVICE), False, capacity=capacity
            )
            torch.testing.assert_close(drawn.colors, expected, rtol=0, atol=2e-6)


def test_near_depths_are_accurate_in_front_of_a_far_background():
    scene = make_scene(seed=11, count=40, width=17, height=13, size=0.05)
    far = scene.gaussians.map(torch.clone)
    forward = scene.cameras.viewmats[0, 2, :3]
    far.means[20:] += 5000 * forward
    far.scales[20:] *= 2500
    scene = single(replace(scene, gaussians=far))
    actual = scene.render(backend="triton", return_depth=True)
    expected = scene.to(torch.float64).render(backend="torch", return_depth=True)
    seen = expected.alphas > 0.05
    assert ((actual.depths - expected.depths).abs() / expected.depths.clamp_min(1))[seen].max() < 1e-4


def test_compiled_functions_may_rasterize():
    scene = single(make_scene(seed=13, count=9, width=9, height=8))

    def brightness(means: Tensor) -> Tensor:
        return 2 * scene.with_gaussians(means=means * 1).render(backend="triton").colors.mean()

    means = scene.gaussians.means.clone().requires_grad_()
    compiled = torch.compile(brightness, backend="eager")  # Dynamo's tracing, without code generation
    loss, other = brightness(means), compiled(means)
    torch.testing.assert_close(loss, other)
    torch.testing.assert_close(torch.autograd.grad(loss, means), torch.autograd.grad(other, means))


@pytest.mark.parametrize("of_cameras", [False, True])
def test_gradient_of_the_background(of_cameras):
    scene = single(make_scene(seed=12, count=15, views=2, width=13, height=9))
    cotangent = torch.randn(2, 3, 9, 13, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def gradient(s: Scene, backend: str) -> Tensor:
        background = torch.tensor([0.3, 0.6, 0.9]).to(s.cameras.Ks).requires_grad_()
        cameras = replace(s.cameras, viewmats=s.cameras.viewmats.clone().requires_grad_(of_cameras))
        colors = replace(s, cameras=cameras).render(backend=backend, background=background).colors
        return torch.autograd.grad((colors * cotangent.to(colors)).sum(), background)[0]

    expected = gradient(scene.to(torch.float64), "torch")
    torch.testing.assert_close(gradient(scene, "triton").double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_batch_axes():
    scenes = [single(make_scene(seed=seed, count=9, views=2, width=11, height=9)) for seed in range(4)]
    together = stacked(*scenes)

    def two_axes(x: Tensor) -> Tensor:
        return x.unflatten(0, (2, 2))

    c = together.cameras
    drawn = rasterize(together.gaussians.map(two_axes), two_axes(c.viewmats), two_axes(c.Ks), 11, 9, backend="triton")
    assert drawn.colors.shape == (2, 2, 2, 3, 9, 11)
    for i, scene in enumerate(scenes):
        assert torch.equal(drawn.colors[i // 2, i % 2], scene.render(backend="triton").colors)


def test_tensors_that_are_not_aligned_are_copied():
    values = torch.rand(41, 3, device=DEVICE)
    assert aligned(values) is values
    for view in (values[1:], values.T):
        copy = aligned(view)
        assert torch.equal(copy, view) and copy.is_contiguous() and copy.data_ptr() % ALIGNMENT == 0


@pytest.mark.slow
@pytest.mark.parametrize("with_depth", [True, False])
def test_images_and_gradients_of_several_sets(with_depth):
    size = {"count": 40, "width": 21, "height": 18}
    scene = single(stacked(make_scene(seed=3, **size), make_scene(seed=4, **size)))
    options = {"return_depth": with_depth, "background": torch.tensor([0.2, 0.5, 1.0], device=DEVICE)}
    assert_same_images(
        scene.render(backend="triton", **options), scene.to(torch.float64).render(backend="torch", **options)
    )
    assert_same_gradients(scene, **options)


@pytest.mark.parametrize("of_cameras", [False, True])
def test_hard_scene(of_cameras):
    scene = single(hard_scene(seed=5, count=60, views=2, width=23, height=17))
    assert_same_images(
        scene.render(backend="triton", return_depth=True),
        scene.to(torch.float64).render(backend="torch", return_depth=True),
    )
    assert_same_gradients(scene, of_cameras)


def test_lists_that_overflow_render_the_same_image():
    scene = single(hard_scene(seed=6, count=40, views=2, width=17, height=11))
    g, c = scene.gaussians.map(lambda x: x[None]), scene.cameras
    arguments = g, c.viewmats[None], c.Ks[None], 17, 11, torch.ones(3, device=DEVICE), True
    enough, too_few = (triton_backend.rasterize(*arguments, capacity=n) for n in (4000, 7))
    for a, e in zip(vars(too_few).values(), vars(enough).values()):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-6)


def test_compositing_continues_until_transmittance_is_negligible():
    scene = make_scene(count=60, width=8, height=8)
    # Wide splats one behind the other: 32 black ones transmit 0.8 %, those behind are bright.
    depths = torch.linspace(0, 0.3, 60, dtype=torch.float64)[:, None]
    dim = (torch.arange(60) < 32).double()
    scene = single(
        scene.with_gaussians(
            means=depths * scene.cameras.viewmats[0, 2, :3],
            scales=torch.full((60, 3), 20.0, dtype=torch.float64),
            opacities=0.14 * dim + 0.9 * (1 - dim),
            colors=(1 - dim)[:, None].expand(60, 3),
        )
    )
    actual = scene.render(backend="triton", background=0.0)
    expected = scene.to(torch.float64).render(backend="torch", background=0.0)
    assert expected.colors.min() > 5e-3
    assert_same_images(actual, expected)


def test_faint_splats_beside_opaque_pixels_count():
    """Chunks of splats behind the opaque half of a tile, among which a few faint ones are in its free half."""
    scene = make_scene(count=96, width=8, height=8)
    index = torch.arange(96)
    right = scene.cameras.viewmats[0, 0, :3]
    metres = 1 / scene.cameras.Ks[0, 0, 0] * scene.cameras.viewmats[0, 2, 3].abs()  # of a pixel, about
    is_faint = (index >= 32) & (index % 16 == 5)
    columns = torch.where(is_faint, 2.5, -3.0)
    scene = scene.with_gaussians(
        means=(0.001 * index[:, None] * scene.cameras.viewmats[0, 2, :3] + columns[:, None] * metres * right),
        scales=torch.tensor([1.0, 1.2, 0.8], dtype=torch.float64) * torch.where(index < 32, 1, 0.2)[:, None] * metres,
        opacities=torch.where(is_faint, 0.01, 0.9).double(),
    )
    scene = single(scene)
    expected = scene.to(torch.float64).render(backend="torch")
    assert expected.alphas.max() > 0.9999 > 0.9 > expected.alphas.min()
    assert_same_images(scene.render(backend="triton"), expected, max_error=1e-5)
    assert_same_gradients(scene, tolerance=2e-4)


def test_invisible_gaussians_leave_the_background():
    scene = single(make_scene(count=20, width=10, height=9))
    nothing = take(scene.gaussians, torch.zeros(0, dtype=torch.long, device=DEVICE))
    unseen = [
        replace(scene, gaussians=nothing),
        scene.with_gaussians(opacities=torch.zeros_like(scene.gaussians.opacities)),
        scene.with_gaussians(means=scene.gaussians.means + 100),
    ]
    for s in unseen:
        rendering = s.render(backend="triton", background=0.25, return_depth=True)
        assert (rendering.colors == 0.25).all() and (rendering.alphas == 0).all() and (rendering.depths == 0).all()
        for cameras in (None, s.cameras):  # with and without gradients of the cameras

            def render(x: Scene, cameras=cameras) -> Rendering:
                return Scene(x.gaussians, cameras or x.cameras).render(backend="triton", return_depth=True)

            for name, value in gradients(render, s).items():
                assert (value == 0).all(), name


def test_other_precisions_are_rendered_in_single_precision():
    scene = single(make_scene(count=12, width=9, height=7))
    expected = scene.render(backend="triton")
    double = scene.to(torch.float64).render(backend="triton")
    assert double.colors.dtype == torch.float64
    assert (double.colors == expected.colors).all()
    half = scene.gaussians.map(lambda x: x.to(torch.bfloat16))
    drawn = replace(scene, gaussians=half).render(backend="triton")
    assert drawn.colors.dtype == torch.float32
    assert (drawn.colors == replace(scene, gaussians=half.to(torch.float32)).render(backend="triton").colors).all()


@pytest.mark.parametrize("installed, reason", [(False, "not installed"), (True, "CUDA")])
def test_where_it_cannot_run_the_error_is_one_line_with_a_remedy(installed, reason, monkeypatch):
    monkeypatch.setattr(backends, "_has_triton", lambda: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match=reason) as caught:
        make_scene().render(backend="triton")
    assert "\n" not in str(caught.value) and "backend torch" in str(caught.value)


def test_cpu_tensors_are_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    scene = make_scene(count=3, width=8, height=8)
    g, c = scene.gaussians.map(lambda x: x[None]), scene.cameras
    with pytest.raises(InputError, match="on cpu"):
        triton_backend.rasterize(g, c.viewmats[None], c.Ks[None], 8, 8, torch.ones(3), False)
