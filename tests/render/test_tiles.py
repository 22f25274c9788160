"""Tiles and their lists of splats, against lists built one by one."""

import pytest
import torch

from core.render.torch_backend import Canvas, chunks


def boxes(seed: int, count: int = 40):
    """Centres in and around a 30 x 22 image, half sizes (a fifth of them zero), depths of which some are equal."""
    generator = torch.Generator().manual_seed(seed)
    means2d = torch.rand(count, 2, generator=generator) * torch.tensor([50.0, 40]) - 10
    extents = torch.rand(count, 2, generator=generator) ** 3 * 20
    extents[::5] = 0
    depths = torch.randint(0, 9, (count,), generator=generator).float()
    return means2d, extents, depths


@pytest.mark.parametrize("max_fragments, max_pairs", [(10**9, 10**9), (200, 10**9), (1, 1), (500, 50)])
def test_every_tile_lists_the_splats_at_its_pixel_centres_from_near_to_far(max_fragments, max_pairs):
    canvas = Canvas(30, 22, 4)
    means2d, extents, depths = boxes(0)
    expected = {}
    for tile in range(canvas.rows * canvas.columns):
        first = torch.tensor([tile % canvas.columns, tile // canvas.columns]) * 4 + 0.5
        reached = (means2d + extents >= first) & (means2d - extents <= first + 3) & (extents > 0)
        indices = reached.all(-1).nonzero()[:, 0].tolist()
        if indices:
            expected[tile] = sorted(indices, key=lambda i: (depths[i].item(), i))

    actual = {}
    for chunk in chunks(canvas, means2d, extents, depths, max_fragments, max_pairs):
        assert chunk.splats.numel() * 16 <= max_fragments or len(chunk.tiles) == 1
        for tile, corner, splats in zip(chunk.tiles.tolist(), chunk.corners.tolist(), chunk.splats.tolist()):
            assert tile not in actual
            assert corner == [tile % canvas.columns * 4, tile // canvas.columns * 4]
            actual[tile] = [i for i in splats if i < len(means2d)]
            assert splats == actual[tile] + [len(means2d)] * (len(splats) - len(actual[tile]))
    assert actual == expected


def test_boxes_of_any_position_and_size_are_accepted():
    canvas = Canvas(9, 5, 4)
    means2d = torch.tensor([[-1e9, 2], [1e9, 2], [4, 1e9], [4, 2], [4, 2], [4, 2]])
    extents = torch.tensor([[1, 1], [1, 1], [1, 1], [1e9, 1e9], [0, 0], [torch.nan, 1]])
    (chunk,) = chunks(canvas, means2d, extents, torch.arange(6.0), 10**6, 10**6)
    assert sorted(chunk.tiles.tolist()) == list(range(6))
    assert (chunk.splats == 3).all()


def test_splitting_into_tiles_is_invertible():
    canvas = Canvas(9, 5, 4)
    image = torch.rand(3, 5, 9)
    tiles = canvas.to_tiles(image)
    assert tiles.shape == (6, 3, 4, 4)
    torch.testing.assert_close(tiles[1, :, 2, 3], image[:, 2, 7])  # the second tile of the first row
    torch.testing.assert_close(canvas.to_image(tiles), image)
