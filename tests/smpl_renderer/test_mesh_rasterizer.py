"""The z-buffer compared with a loop over pixels and faces in float64."""

import pytest
import torch

from smpl_renderer.mesh_rasterizer import rasterize_fragments, rasterize_mesh

HEIGHT, WIDTH = 18, 23


def random_triangles(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unconnected triangles at multiples of 1/8 pixel: many centres lie exactly on edges, and edges are exact."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(-32, 8 * WIDTH + 32, (3 * count, 2), generator=generator) / 8
    depths = 1 + 4 * torch.rand(3 * count, generator=generator)
    return pixels, depths, torch.arange(3 * count).reshape(-1, 3)


def rasterize_by_loops(pixels, depths, faces, cull=False):
    """Face indices [H, W] and barycentrics [H, W, 3], one pixel and face at a time."""
    face_ids = torch.full((HEIGHT, WIDTH), -1)
    barycentrics = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.float64)
    nearest = torch.full((HEIGHT, WIDTH), float("inf"), dtype=torch.float64)
    for face_id, face in enumerate(faces.tolist()):
        corners, z = pixels[face].double(), depths[face].double()
        (ax, ay), (bx, by), (cx, cy) = corners.tolist()
        doubled_area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if doubled_area == 0 or (cull and doubled_area > 0):
            continue
        for row in range(HEIGHT):
            for column in range(WIDTH):
                x, y = column + 0.5, row + 0.5
                areas = torch.tensor(
                    [
                        (bx - x) * (cy - y) - (by - y) * (cx - x),
                        (cx - x) * (ay - y) - (cy - y) * (ax - x),
                        (ax - x) * (by - y) - (ay - y) * (bx - x),
                    ],
                    dtype=torch.float64,
                )
                weights = areas / doubled_area
                if (weights < 0).any():
                    continue
                depth = 1 / (weights / z).sum()
                if depth < nearest[row, column]:
                    nearest[row, column] = depth
                    face_ids[row, column] = face_id
                    barycentrics[row, column] = weights / z * depth
    return face_ids, barycentrics


@pytest.mark.parametrize("cull", [False, True])
def test_matches_a_loop_over_pixels(cull):
    scene = random_triangles(12, seed=1)
    face_ids, barycentrics = rasterize_mesh(*scene, HEIGHT, WIDTH, cull=cull)
    expected_ids, expected_barycentrics = rasterize_by_loops(*scene, cull=cull)
    assert (expected_ids >= 0).sum() > 100
    assert torch.equal(face_ids, expected_ids)
    # float32 has a precision of 1e-7; barycentrics of small faces lose about two digits.
    torch.testing.assert_close(barycentrics.double(), expected_barycentrics, rtol=0, atol=2e-5)


def test_a_closed_mesh_covers_every_pixel():
    generator = torch.Generator().manual_seed(2)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    jitter = 0.4 * torch.rand(8, 8, 2, generator=generator)
    pixels = (torch.stack([columns, rows], -1) + jitter).reshape(-1, 2) * 4.0 - 4
    corner = (8 * rows[:-1, :-1] + columns[:-1, :-1]).reshape(-1)
    lower = torch.stack([corner, corner + 1, corner + 8], -1)
    upper = torch.stack([corner + 1, corner + 9, corner + 8], -1)
    faces = torch.cat([lower, upper])
    face_ids, _ = rasterize_mesh(pixels, torch.ones(64), faces, HEIGHT, WIDTH)
    assert (face_ids >= 0).all()


def test_centres_on_a_shared_edge_are_covered():
    """The edges pass through pixel centres and their ends are rounded, so rounding alone decides on the side."""
    generator = torch.Generator().manual_seed(0)
    breaks = torch.cat([torch.tensor([-10.0]).expand(64, 1), torch.rand(64, 9, generator=generator).sort(1)[0] * 8], 1)
    breaks = torch.cat([breaks, torch.tensor([20.0]).expand(64, 1)], 1)
    on_line = torch.stack([0.5 + 3 * breaks, 0.5 + breaks], -1)
    above_and_below = torch.tensor([[12.0, -60.0], [12.0, 80.0]]).expand(64, 2, 2)
    pixels = torch.cat([on_line, above_and_below], 1)
    # Shuffled, so that shared edges run with and against the order of their indices.
    order = torch.tensor([5, 0, 7, 2, 9, 4, 1, 10, 3, 8, 6, 11, 12])
    pixels = pixels[:, order.argsort()]
    start, end = order[:10], order[1:11]
    faces = torch.cat(
        [torch.stack([start, end, torch.full((10,), 11)], 1), torch.stack([end, start, torch.full((10,), 12)], 1)]
    )
    face_ids, _ = rasterize_mesh(pixels, torch.ones(pixels.shape[:2]), faces, HEIGHT, WIDTH)
    assert (face_ids >= 0).all()


def test_of_faces_at_equal_depth_the_lowest_index_is_visible():
    pixels = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    faces = torch.tensor([[0, 1, 2], [1, 2, 0], [0, 1, 2]])
    face_ids, _ = rasterize_mesh(pixels, torch.tensor([2.0, 2.0, 2.0]), faces, 8, 8)
    assert (face_ids == 0).all()


def test_barycentrics_are_perspective_correct():
    """They give the point of the face that projects to the pixel centre."""
    points = torch.tensor([[-1.0, -1.0, 2.0], [3.0, -1.0, 6.0], [-1.0, 2.0, 3.0]])
    pixels, depths = 20 * points[:, :2] / points[:, 2:] + 10, points[:, 2]
    found = rasterize_fragments(pixels[None], depths[None], torch.tensor([[0, 1, 2]]), HEIGHT, WIDTH)
    hits = found.barycentrics @ points
    assert len(hits) > 50
    torch.testing.assert_close(hits[:, 2], found.depths, rtol=1e-5, atol=0)
    rows, columns = found.pixel_ids // WIDTH, found.pixel_ids % WIDTH
    centers = torch.stack([columns, rows], -1) + 0.5
    torch.testing.assert_close(20 * hits[:, :2] / hits[:, 2:] + 10, centers, rtol=0, atol=1e-4)


def test_orthographic_depth_is_linear():
    pixels = torch.tensor([[0.0, 0.0], [16.0, 0.0], [0.0, 16.0]])
    found = rasterize_fragments(
        pixels[None], torch.tensor([[1.0, 5.0, 1.0]]), torch.tensor([[0, 1, 2]]), 8, 8, perspective=False
    )
    columns = found.pixel_ids % 8
    torch.testing.assert_close(found.depths, 1 + (columns + 0.5) / 4, rtol=1e-6, atol=0)


def test_faces_nearer_than_the_near_plane_are_dropped():
    pixels = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    for depth in (-1.0, 0.0, 0.005):
        face_ids, barycentrics = rasterize_mesh(
            pixels, torch.tensor([1.0, 1.0, depth]), torch.tensor([[0, 1, 2]]), 8, 8, near=0.01
        )
        assert (face_ids == -1).all()
        assert (barycentrics == 0).all()


def test_only_marked_faces_are_culled():
    pixels, depths, faces = random_triangles(20, seed=3)
    marked = torch.arange(20) % 2 == 0
    culled, _ = rasterize_mesh(pixels, depths, faces, HEIGHT, WIDTH, cull=marked)
    corners = pixels[faces]
    side_a, side_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    from_behind = side_a[:, 0] * side_b[:, 1] - side_a[:, 1] * side_b[:, 0] > 0
    kept = ~(from_behind & marked)
    expected, _ = rasterize_mesh(pixels, depths, faces[kept], HEIGHT, WIDTH)
    expected = torch.where(expected >= 0, torch.nonzero(kept)[:, 0][expected], -1)
    assert (from_behind & marked).any() and (from_behind & ~marked).any()
    assert torch.equal(culled, expected)


def test_images_and_chunks_are_independent():
    scenes = [random_triangles(12, seed) for seed in (4, 5, 6)]
    pixels, depths = (torch.stack([scene[i] for scene in scenes]) for i in (0, 1))
    faces = scenes[0][2]
    face_ids, barycentrics = rasterize_mesh(pixels, depths, faces, HEIGHT, WIDTH)
    for index, scene in enumerate(scenes):
        alone = rasterize_mesh(*scene, HEIGHT, WIDTH)
        assert torch.equal(face_ids[index], alone[0])
        assert torch.equal(barycentrics[index], alone[1])
    in_chunks = rasterize_fragments(pixels, depths, faces, HEIGHT, WIDTH, max_candidates=50)
    assert torch.equal(in_chunks.face_ids, face_ids[face_ids >= 0])


@pytest.mark.gpu
def test_faces_on_a_gpu_equal_those_on_the_cpu():
    scene = random_triangles(200, seed=7)
    on_cpu, _ = rasterize_mesh(*scene, HEIGHT, WIDTH)
    on_gpu, _ = rasterize_mesh(*(x.cuda() for x in scene), HEIGHT, WIDTH)
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_mismatched_vertices_are_refused():
    with pytest.raises(ValueError, match="must match"):
        rasterize_fragments(torch.zeros(1, 3, 2), torch.zeros(1, 4), torch.tensor([[0, 1, 2]]), 4, 4)
