"""Binning by pairs of splats and tiles: equal lists to those of the cells' binning, its fallbacks, and its choice."""

import logging
from dataclasses import replace

import pytest
import torch
from render_scenes import Scene, gradients, hard_scene, make_scene, stacked
from torch import Tensor

pytest.importorskip("triton")

import triton.language as tl

from core.render import binning_kernel, capacity, depth_ranks_kernel, pair_binning, triton_backend
from core.render.binning import choose_binning
from core.render.capacity import CapacityEstimator, capacity_estimator
from core.render.depth_ranks_kernel import depth_ranks, ranks_by_sorting
from core.render.pair_binning_kernel import PART
from core.render.projection_kernel import project
from core.render.splat_table import NOT_DRAWN, OCTAVES, DepthOrder, octave_bits
from smpl_renderer.errors import InputError

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Capacities that no earlier test has estimated, and no larger than necessary."""
    monkeypatch.setattr(capacity, "MIN_ESTIMATE", 256)
    capacity_estimator.cache_clear()
    yield
    capacity_estimator.cache_clear()


def single(scene: Scene) -> Scene:
    return scene.to(torch.float32).to(DEVICE)


def listed(scene: Scene, by_pairs: bool, by_sorting: bool = False) -> list[list[int]]:
    """Splats listed for each tile of 8 x 8 pixels."""
    g, c = scene.gaussians.map(lambda x: x[None]), scene.cameras
    table, order = project(g, c.viewmats[None].contiguous(), c.Ks[None].contiguous(), c.width, c.height, not by_pairs)
    order = DepthOrder(order.keys) if by_sorting else order
    size = c.width, c.height, 8
    if by_pairs:
        lists = pair_binning.bin_tiles(table, pair_binning.rank_splats(order, *size), *size)
    else:
        lists = binning_kernel.bin_tiles(table, order, *size)
    slots = lists.slots.tolist()
    return [slots[first:last] for first, last in lists.ranges.tolist()]


def render(scene: Scene, **options):
    c = scene.cameras
    white = torch.ones(3, device=DEVICE)
    return triton_backend.rasterize(
        scene.gaussians, c.viewmats, c.Ks, c.width, c.height, white, True, binning="pairs", **options
    )


def estimator_of(scene: Scene, kind: str) -> CapacityEstimator:
    c = scene.cameras
    views = c.batch_shape.numel()
    return capacity_estimator(c.Ks.device, views, scene.gaussians.count, c.width, c.height, 8, None, kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, views, width, height, by_sorting",
    [(40, 2, 75, 18, False), (20, 1, 70, 70, False), (20, 2, 20, 70, True), (9, 3, 8, 7, False)],
)
def test_lists_are_those_of_the_other_binning(count, views, width, height, by_sorting):
    scene = single(hard_scene(seed=count, count=count, views=views, width=width, height=height))
    assert listed(scene, True, by_sorting) == listed(scene, False)


@pytest.mark.slow
def test_lists_of_several_parts_and_blocks_of_words(monkeypatch):
    """More entries per bin than a part holds, and more ranks than a block of words."""
    scene = single(make_scene(seed=1, count=600, width=30, height=20, size=0.02))
    expected = listed(scene, False)
    monkeypatch.setattr(pair_binning, "WORD_BLOCK", 4)
    lists = listed(scene, True)
    assert len({splat for splats in lists for splat in splats}) > 2 * PART.value
    assert lists == expected


def order_of(depths: Tensor, drawn: Tensor) -> DepthOrder:
    """What the projection writes without lists, from depths [V, N] in double precision."""
    keys = torch.where(drawn, depths.view(torch.int64), NOT_DRAWN.value)
    bits = octave_bits(keys.shape[-1])
    buckets = (depths.float().view(torch.int32) >> (23 - bits)) - ((127 - 4) << bits)
    last = (OCTAVES.value << bits) - 1
    buckets = torch.where(drawn, buckets.clamp(0, last - 1), last).long()
    sizes = torch.zeros(len(keys), last + 1, dtype=torch.int64).scatter_add_(1, buckets, torch.ones_like(buckets))
    arrivals = ((~drawn).cumsum(1) - 1).int()
    return DepthOrder(keys.to(DEVICE), sizes.int().to(DEVICE), None, arrivals.to(DEVICE))


def distributions() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(3, 150, generator=generator, dtype=torch.float64)
    return {
        "a body at 2 m": 2 + 0.5 * random,
        "a tenth of a millimetre": 2 + 1e-4 * random,
        "closer than single precision": 2 + 1e-7 * random,
        "equal": torch.full_like(random, 1.7),
        "all octaves and beyond": torch.exp(16 * random - 6),
        "millimetres": 1e6 * (1 + random),
        "a far one": torch.where(torch.arange(150) == 3, 1e30, 2 + random),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", distributions())
def test_ranks_are_those_of_a_stable_sort(name):
    depths = distributions()[name]
    drawn = torch.rand(depths.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    order = order_of(depths, drawn)
    ranks = depth_ranks(order, torch.zeros(1, dtype=torch.int64, device=DEVICE)).cpu()
    expected = ranks_by_sorting(order.keys).cpu()
    assert torch.equal(ranks[drawn], expected[drawn])
    assert torch.equal(ranks.sort(-1).values, torch.arange(150, dtype=torch.int32).expand(3, -1))


def test_a_crowded_part_is_reported_and_sorted_from_the_next_call_on(monkeypatch):
    monkeypatch.setattr(depth_ranks_kernel, "CROWDED", tl.constexpr(9))
    estimator = CapacityEstimator(0, 10, on_cuda=DEVICE == "cuda")
    depths = torch.full((1, 20), 2.0, dtype=torch.float64)
    for _ in range(2):
        ranked = pair_binning._ranks(order_of(depths, depths > 0), estimator)
        assert ranked.ranks.tolist() == [list(range(20))]  # equal depths keep their order
        assert ranked.drawn.tolist() == [20]
        monkeypatch.setattr(pair_binning, "depth_ranks", None)
        estimator.read_reports()
        assert estimator.is_crowded


@pytest.mark.slow
def test_images_and_gradients_of_two_sets():
    size = {"count": 30, "width": 13, "height": 11}
    scene = single(stacked(hard_scene(seed=3, **size), hard_scene(seed=4, **size)))
    double = scene.to(torch.float64)
    actual, expected = render(scene), double.render(backend="torch", return_depth=True)
    assert (actual.colors.double() - expected.colors).abs().max() < 1e-4
    assert (actual.alphas.double() - expected.alphas).abs().max() < 1e-4
    for of_cameras in (False, True):

        def images(s: Scene, of_cameras=of_cameras):
            own = s if of_cameras else Scene(s.gaussians, scene.cameras.to(s.cameras.Ks.dtype))
            return own.render(backend="torch", return_depth=True) if s.cameras.Ks.dtype.itemsize == 8 else render(own)

        reference = gradients(images, double)
        for name, value in gradients(images, scene).items():
            assert (value.double() - reference[name]).norm() < 1e-3 * reference[name].norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("views_at_a_time", [1, 3, 4])
def test_gradients_of_some_views_at_a_time_are_those_of_all(views_at_a_time, monkeypatch):
    """Two sets with three cameras each: some cameras of a set at a time, one set, and one although more views fit."""
    size = {"count": 21, "width": 9, "height": 8, "views": 3}
    scene = single(stacked(make_scene(seed=1, **size), make_scene(seed=2, **size)))
    expected = gradients(lambda s: render(Scene(s.gaussians, scene.cameras)), scene)
    monkeypatch.setattr(triton_backend, "MAX_GRAD_BYTES", views_at_a_time * 21 * 12 * 4)
    actual = gradients(lambda s: render(Scene(s.gaussians, scene.cameras)), scene)
    for name, value in actual.items():
        assert (value - expected[name]).norm() < 1e-5 * expected[name].norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "entries"])
def test_lists_that_overflow_render_the_same_image_and_are_reported(kind, caplog):
    scene = single(hard_scene(seed=6, count=20, views=2, width=68, height=8))
    expected = render(scene)
    estimator = estimator_of(scene, kind)
    enough, estimator.capacity = estimator.capacity, {"pairs": 20, "entries": PART.value}[kind]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # the second call has the capacity that the first one reported
            rendering = render(scene)
            if scene.cameras.Ks.is_cuda:
                torch.cuda.synchronize()
            for a, e in zip(vars(rendering).values(), vars(expected).values()):
                assert a is e is None or (a - e).abs().max() < 2e-6
    assert estimator.capacity == enough
    assert sum("exceeded the capacity" in message for message in caplog.messages) == 1


def test_a_given_capacity_is_kept():
    scene = single(hard_scene(seed=7, count=30, views=2, width=20, height=11))
    expected = render(scene)
    for _ in range(2):
        assert (render(scene, capacity=5).colors - expected.colors).abs().max() < 2e-6
    with pytest.raises(ValueError, match="capacity"):
        render(scene, capacity=-1)


def test_more_splats_than_a_grid_allows_are_refused_before_they_are_ranked():
    keys = torch.zeros(1, 1, dtype=torch.int64).expand(1, binning_kernel.MAX_COUNT + 1)
    with pytest.raises(InputError, match="1 views of 4194241 Gaussians at 8 x 8 are too many for one call"):
        pair_binning.rank_splats(DepthOrder(keys), 8, 8, 8)


@pytest.mark.slow
def test_padding_changes_neither_images_nor_gradients():
    """Sets of unequal size are padded with Gaussians of opacity 0, of which blocks are skipped."""
    small, large = (single(make_scene(seed=seed, count=n, width=8, height=7)) for seed, n in ((1, 20), (2, 66)))
    padded = small.gaussians.map(lambda x: torch.cat([x, x.new_full((46, *x.shape[1:]), float("nan"))]))
    padded.opacities[20:] = 0
    both = stacked(replace(small, gaussians=padded), large)
    rendering = render(both)
    for index, scene in enumerate((small, large)):
        for name in ("colors", "alphas", "depths"):
            assert torch.equal(getattr(rendering, name)[index], getattr(render(scene), name))
    grads = gradients(lambda s: render(Scene(s.gaussians, both.cameras)), both)
    for name in vars(both.gaussians):
        assert (grads[name][0, 64:] == 0).all(), name  # blocks of padding alone


def choice(views: int, count: int, size: int, binning: str | None = "auto") -> str:
    return choose_binning(torch.device("cpu"), views, count, size, size, 8, None, binning)


def test_auto_chooses_pairs_beyond_the_sizes_at_which_cells_were_measured_to_be_faster():
    assert [choice(v, n, 512) for v, n in ((8, 13_000), (32, 13_000), (8, 80_000), (1, 160_000))] == ["cells"] * 4
    assert [choice(v, n, 512) for v, n in ((32, 28_000), (8, 160_000), (1, 320_000))] == ["pairs"] * 3
    assert choice(8, 80_000, 1024) == "pairs"


def test_the_binning_of_the_environment_is_kept_unless_it_cannot_work(monkeypatch):
    monkeypatch.delenv("HGG_BINNING", raising=False)
    assert choice(32, 200_000, 512, None) == choice(32, 200_000, 512) == "pairs"
    monkeypatch.setenv("HGG_BINNING", "cells")
    assert choice(32, 200_000, 512, None) == "cells"
    assert choice(32, 1_000_000, 1024, None) == "pairs"  # 4 GB of bits
    monkeypatch.setenv("HGG_BINNING", "pairs")
    assert choice(1, 100, 64, None) == "pairs"
    monkeypatch.setenv("HGG_BINNING", "squares")
    with pytest.raises(InputError, match="auto, cells or pairs"):
        choice(1, 100, 64, None)


def test_lists_beyond_the_largest_capacity_choose_pairs(monkeypatch):
    monkeypatch.delenv("HGG_BINNING", raising=False)
    estimator = capacity_estimator(torch.device("cpu"), 1, 100, 64, 64, 8, None)
    estimator.update(estimator.limit + 1)
    assert choice(1, 100, 64, None) == "pairs"
