"""Backend `numba` against the definition in double precision: values, gradients, extreme scenes, and its own laws."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from render_scenes import EXTREMES, Scene, gradients, hard_scene, make_scene, stacked, take

pytest.importorskip("numba")

import numba

from core.render import numba_backend, rasterize
from core.render.binning_numba import bin_tiles
from core.render.compositing_numba import _exp2
from core.render.numba_backend import _run, _splat_table, warm_up
from core.render.numba_common import CUT, TILE_HEIGHT, TILE_WIDTH, compiled
from core.types.gaussians import Gaussians
from smpl_renderer.files import REPOSITORY

pytestmark = pytest.mark.usefixtures("poisoned_memory")

LARGE = {"width": 150, "height": 110, "count": 1500, "size": 0.03, "views": 2}  # several tiles in both directions


def single(scene: Scene) -> Scene:
    return scene.to(torch.float32)


def gaussian_gradients(scene: Scene, **options) -> dict[str, torch.Tensor]:
    """Gradients of the Gaussians only, for which the backend projects in its own kernels."""
    return gradients(lambda s: Scene(s.gaussians, scene.cameras).render(**options), scene)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"views": 3},
        {"size": 0.3, "count": 30},  # splats larger than the image
        {"size": 0.002, "count": 300},  # far smaller than a pixel
        {"width": 1, "height": 1},
        {"width": TILE_WIDTH, "height": TILE_HEIGHT},
        {"width": TILE_WIDTH + 1, "height": TILE_HEIGHT + 1},
        LARGE,
    ],
)
def test_equals_the_definition(options):
    scene = make_scene(**options)
    expected = scene.render(background=0.3, return_depth=True, backend="torch")
    # With depth, PyTorch projects; without, the kernels do.
    for options in ({}, {"return_depth": True}):
        actual = single(scene).render(background=0.3, backend="numba", **options)
        # Rounding of 1e-7, amplified by the projection. No pixel of these scenes is at the cut alpha = 1/255.
        for name, tolerance in (("colors", 1e-5), ("alphas", 1e-5), ("depths", 1e-4)):
            if name in actual.images:
                image = actual.images[name]
                assert image.dtype == torch.float32
                torch.testing.assert_close(image.double(), expected.images[name], rtol=0, atol=tolerance)
    of_all = gradients(lambda s: s.render(return_depth=True, backend="numba"), single(scene))
    of_gaussians = gaussian_gradients(single(scene), backend="numba")
    for actual, expected in (
        (of_all, gradients(lambda s: s.render(return_depth=True, backend="torch"), scene)),
        (of_gaussians, gaussian_gradients(scene, backend="torch")),
    ):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert (actual[name] - value).norm() <= 1e-4 * value.norm(), name


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-30))


@pytest.mark.parametrize("change", EXTREMES, ids=lambda f: f.__name__)
def test_is_as_exact_as_the_definition_in_single_precision_for_extreme_inputs(change):
    scene = change(make_scene(count=100))
    exact = scene.render(backend="torch"), gaussian_gradients(scene, backend="torch")
    plain = single(scene).render(backend="torch"), gaussian_gradients(single(scene), backend="torch")
    actual = single(scene).render(backend="numba"), gaussian_gradients(single(scene), backend="numba")
    for name, image in exact[0].images.items():
        bound = max(1e-6, 4 * error(plain[0].images[name], image))
        assert error(actual[0].images[name], image) <= bound, name
    for name, value in exact[1].items():
        assert actual[1][name].isfinite().all(), name
        assert error(actual[1][name], value) <= max(1e-4, 4 * error(plain[1][name], value)), name


def test_batches_equal_a_loop():
    scenes = [hard_scene(seed=i, count=70, views=2) for i in range(3)]
    batch = single(stacked(*scenes))
    together = batch.render(backend="numba", return_weights=True)
    grads = gaussian_gradients(batch, backend="numba", return_weights=True)
    cotangent = torch.Generator().manual_seed(0)
    cotangents = [torch.randn(x.shape, generator=cotangent, dtype=torch.float64) for x in together.images.values()]
    for i, scene in enumerate(scenes):
        alone = single(scene)
        leaves = alone.gaussians.map(lambda x: x.clone().requires_grad_())
        rendering = Scene(leaves, alone.cameras).render(backend="numba", return_weights=True)
        for name, image in rendering.images.items():
            torch.testing.assert_close(together.images[name][i], image, rtol=0, atol=0)
        torch.testing.assert_close(together.weights[i], rendering.weights, rtol=0, atol=0)
        loss = sum((x * c[i].float()).sum() for x, c in zip(rendering.images.values(), cotangents))
        for name, value in zip(vars(leaves), torch.autograd.grad(loss, list(vars(leaves).values()))):
            torch.testing.assert_close(grads[name][i], value, rtol=1e-5, atol=1e-6)


def test_results_do_not_depend_on_the_number_of_threads():
    scene = single(make_scene(**LARGE))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rendering = scene.render(backend="numba", return_weights=True)
            grads = gaussian_gradients(scene, backend="numba")
            results.append([*rendering.images.values(), rendering.weights, *grads.values()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("of_cameras", [False, True])
def test_weights_are_the_gradients_of_colour_sums(of_cameras):
    scene = hard_scene(count=300, views=2)
    colors = scene.gaussians.colors.clone().requires_grad_()
    rendering = scene.with_gaussians(colors=colors).render(backend="torch")
    expected = [torch.autograd.grad(view.sum(), colors, retain_graph=True)[0][:, 0] for view in rendering.colors]
    other = single(scene)
    viewmats = other.cameras.viewmats.clone().requires_grad_(of_cameras)
    other = replace(other, cameras=replace(other.cameras, viewmats=viewmats))
    weights = other.render(backend="numba", return_weights=True).weights
    assert not weights.requires_grad
    torch.testing.assert_close(weights.double(), torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert other.render(backend="numba").weights is None
    assert other.render(backend="torch", return_weights=True).weights is None


def test_gradients_of_the_background():
    scene = single(make_scene(views=2))
    for of_cameras in (False, True):
        background = torch.full((3,), 0.5, requires_grad=True)
        viewmats = scene.cameras.viewmats.clone().requires_grad_(of_cameras)
        c = scene.cameras
        rendering = rasterize(
            scene.gaussians, viewmats, c.Ks, c.width, c.height, background=background, backend="numba"
        )
        (grad,) = torch.autograd.grad(rendering.colors.sum(), background)
        torch.testing.assert_close(grad, (1 - rendering.alphas).sum().detach().expand(3), rtol=1e-5, atol=0)


def test_only_some_inputs_and_outputs_take_part_in_the_backward_pass():
    scene = make_scene()
    for image in ("colors", "alphas"):
        results = []
        for s, backend in ((scene, "torch"), (single(scene), "numba")):
            opacities = s.gaussians.opacities.clone().requires_grad_()
            rendering = s.with_gaussians(opacities=opacities).render(backend=backend)
            results.append(torch.autograd.grad(rendering.images[image].sum(), opacities)[0].double())
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    assert not single(scene).render(backend="numba").colors.requires_grad


def test_strided_inputs_equal_contiguous_ones():
    scene = single(make_scene(count=40, views=2))
    expanded = scene.gaussians.map(lambda x: x[:1].expand(40, *x.shape[1:]))
    swapped = replace(expanded, means=scene.gaussians.means.T.contiguous().T)
    actual = replace(scene, gaussians=swapped).render(backend="numba")
    expected = replace(scene, gaussians=swapped.map(torch.Tensor.contiguous)).render(backend="numba")
    assert torch.equal(actual.colors, expected.colors)


def test_double_precision_is_rendered_by_the_definition():
    scene = make_scene(views=2)
    assert torch.equal(scene.render(backend="numba").colors, scene.render(backend="torch").colors)


@pytest.mark.parametrize("keep", ["none", "transparent", "behind"])
def test_invisible_gaussians_leave_the_background(keep):
    scene = single(make_scene(views=2))
    g = scene.gaussians
    gaussians = {
        "none": take(g, torch.zeros(0, dtype=torch.long)),
        "transparent": replace(g, opacities=torch.full_like(g.opacities, 1 / 256)),
        "behind": replace(g, means=g.means + 2 * scene.cameras.centers[0] + torch.tensor([0.0, 100, 0])),
    }[keep].map(lambda x: x.clone().requires_grad_())
    rendering = Scene(gaussians, scene.cameras).render(background=0.25, backend="numba")
    assert (rendering.colors == 0.25).all() and (rendering.alphas == 0).all()
    rendering.colors.sum().backward()
    assert (gaussians.means.grad == 0).all()


@pytest.mark.slow  # compiles all kernels
def test_no_input_makes_a_kernel_leave_its_arrays(tmp_path):
    """With bounds checked; without, as in all other tests, an index out of bounds would go unnoticed or crash."""
    script = """
import torch
from render_scenes import EXTREMES, Scene, gradients, hard_scene, make_scene

for change in EXTREMES:
    for options in ({}, {"width": 130, "height": 33}):
        scene = change(make_scene(count=100, **options)).to(torch.float32)
        gradients(lambda s: Scene(s.gaussians, scene.cameras).render(backend="numba", return_weights=True), scene)
for value in (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-30):
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene = hard_scene(count=50, width=70, height=40).to(torch.float32)
        getattr(scene.gaussians, name)[7] = value
        gradients(lambda s: Scene(s.gaussians, scene.cameras).render(backend="numba", return_weights=True), scene)
print("within bounds")
"""
    variables = {
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests" / "helpers"), str(REPOSITORY), *sys.path]),
    }
    arguments = {"capture_output": True, "text": True, "env": os.environ | variables}
    result = subprocess.run([sys.executable, "-c", script], **arguments)
    assert "within bounds" in result.stdout, result.stderr


def test_many_opaque_layers_have_no_denormal_transmittance():
    count = 64
    layers = Gaussians(
        means=torch.stack([torch.zeros(count), torch.zeros(count), 2 + torch.arange(count) * 0.01], -1),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        scales=torch.ones(count, 3),
        opacities=torch.full((count,), 0.99),
        colors=torch.rand(count, 3, generator=torch.Generator().manual_seed(0)),
    )
    K = torch.tensor([[20.0, 0, 2], [0, 20, 2], [0, 0, 1]])
    scene = Scene(layers.to(torch.float64), make_scene(width=4, height=4).cameras)
    scene = replace(scene, cameras=replace(scene.cameras, viewmats=torch.eye(4)[None].double(), Ks=K[None].double()))
    actual = gaussian_gradients(single(scene), backend="numba")
    for name, value in gaussian_gradients(scene, backend="torch").items():
        assert error(actual[name], value) < 1e-4, name


def test_tiles_list_all_splats_that_reach_them_from_near_to_far():
    scene = single(hard_scene(count=400, width=150, height=50))
    g, c = scene.gaussians.map(lambda x: x[None]), scene.cameras
    table = _splat_table(g, c.viewmats[None], c.Ks[None], c.width, c.height)[0][0, 0].numpy()
    splats, starts = bin_tiles(table, c.width, c.height)
    mean, (p, q, r), log2_opacity = table[:, :2].astype(float), table[:, 2:5].astype(float).T, table[:, 5].astype(float)
    columns = -(-c.width // TILE_WIDTH)
    assert len(starts) == columns * -(-c.height // TILE_HEIGHT) + 1
    for tile, (start, end) in enumerate(pairwise(starts)):
        listed = splats[start:end]
        order = np.lexsort((listed, table[listed, 6]))
        assert (order == np.arange(len(listed))).all()
        top, left = tile // columns * TILE_HEIGHT, tile % columns * TILE_WIDTH
        y, x = np.mgrid[top : min(top + TILE_HEIGHT, c.height), left : min(left + TILE_WIDTH, c.width)] + 0.5
        dx, dy = x[..., None] - mean[:, 0], y[..., None] - mean[:, 1]
        alphas = np.exp2(log2_opacity - (p * dx + q * dy) ** 2 - (r * dy) ** 2)
        reached = ((alphas >= 1 / 255 * (1 + 1e-5)).any((0, 1))) & (table[:, CUT] >= 0)
        assert set(np.flatnonzero(reached)) <= set(listed.tolist())


def test_powers_of_two_are_exact_to_single_precision():
    for x in np.linspace(-8.5, 0, 200, dtype=np.float32):
        assert abs(_exp2(x) / np.exp2(np.float64(x)) - 1) < 2e-7


def test_errors_of_threads_are_raised():
    def fail_at_3(item: int) -> None:
        if item == 3:
            raise RuntimeError("item 3")

    with pytest.raises(RuntimeError, match="item 3"):
        _run(lambda: fail_at_3, 8)


def test_warm_up_leaves_nothing_to_compile():
    with torch.inference_mode():
        warm_up()
    from core.render import compositing_numba, projection_numba

    kernels = (compositing_numba.composite, compositing_numba.composite_backward, projection_numba.project_backward)
    before = [len(kernel.signatures) for kernel in kernels]
    gaussian_gradients(single(make_scene()), backend="numba")
    assert [len(kernel.signatures) for kernel in kernels] == before and min(before) >= 1


@pytest.mark.slow
def test_compiled_and_stored_kernels_write_the_same_bits(tmp_path):
    """The first process compiles the kernel and stores it, the second loads it."""
    script = """
import os
import numpy as np
from core.render.compositing_numba import SCRATCH, composite

splats = np.random.default_rng(0).uniform(0.5, 1, (40, 12)).astype(np.float32)
splats[:, :2] *= 16  # means
splats[:, 2:5] *= 0.2  # whiteners
splats[:, 7] = 8  # cuts
lists = np.arange(40, dtype=np.int32), np.array([0, 40])
background, scratch, weights = np.zeros(3, np.float32), np.empty(SCRATCH, np.float32), np.empty(40, np.float32)
colors, alphas = np.empty((3, 16, 16), np.float32), np.empty((1, 16, 16), np.float32)
for _ in range(2):
    process = os.fork()
    if process == 0:
        composite(splats, *lists, background, 16, 16, 0, 1, scratch, colors, alphas, weights)
        hits = sum(composite.stats.cache_hits.values())
        print(hits, colors.tobytes().hex(), weights.tobytes().hex(), flush=True)
        os._exit(0)
    os.waitpid(process, 0)
"""
    variables = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    (compiled_hits, *bits), (stored_hits, *stored_bits) = (line.split() for line in result.stdout.splitlines())
    assert (compiled_hits, stored_hits) == ("0", "1"), result.stderr
    assert bits == stored_bits


def test_kernels_run_without_a_folder_for_their_cache(monkeypatch):
    def without_cache(cache=False, njit=numba.njit, **options):
        if cache:
            raise RuntimeError("no locator available")  # as numba does
        return njit(**options)

    monkeypatch.setattr(numba, "njit", without_cache)
    double = compiled(lambda x: 2 * x)
    assert double(3) == 6 and double.stats.cache_path is None


@pytest.mark.parametrize("cache_path, misses, expected", [("a", 1, "once"), (None, 1, "NUMBA_CACHE_DIR"), ("a", 0, "")])
def test_a_compilation_is_reported(cache_path, misses, expected, monkeypatch, caplog):
    def bin_nothing(*_) -> None:
        pass

    bin_nothing.stats = SimpleNamespace(cache_path=cache_path, cache_misses=misses)
    monkeypatch.setattr(numba_backend, "bin_tiles", bin_nothing)
    monkeypatch.setattr(numba_backend, "_Rasterize", SimpleNamespace(apply=lambda *_: 1 / 0))
    with caplog.at_level("INFO"), pytest.raises(ZeroDivisionError):
        warm_up()
    assert expected in caplog.text and bool(caplog.text) == bool(expected)


@pytest.mark.slow
def test_auto_without_numba_is_the_definition():
    script = """
import sys
sys.modules["numba"] = None  # importing it fails
import torch
from core.render import available_backends, backends
assert backends.backend_name("auto", torch.device("cpu")) == "torch"
assert "numba" not in available_backends()
try:
    backends.load_backend("numba", torch.device("cpu"))
except backends.InputError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert "choose backend torch" in result.stdout, result.stderr
