"""Properties of the whole network, with tiny sizes."""

from dataclasses import replace

import pytest
import torch
from model_rig import TEST_MODEL

from core.avatar.avatar import pose_avatar
from core.avatar.rendering import render_avatar
from core.model.heads import MAX_OFFSET
from core.model.hgg import HumanGaussianGraph
from core.ops.nearest_vertices import nearest_vertices
from core.options import GraphOptions, ModelOptions
from core.types.frames import Frames
from smpl_renderer.errors import InputError

RESIDUAL = replace(TEST_MODEL, graph=replace(TEST_MODEL.graph, head="residual"))
TENSORS = ("offsets", "quats", "scales", "opacities", "colors")


def make_model(body, connectivity, options: ModelOptions = TEST_MODEL) -> HumanGaussianGraph:
    torch.manual_seed(0)
    return HumanGaussianGraph(options, body, connectivity)


@pytest.fixture(scope="module")
def model(body, connectivity) -> HumanGaussianGraph:
    return make_model(body, connectivity)


def assert_same_avatar(actual, expected, atol):
    for name in TENSORS:
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("queries", [1, 4])
def test_an_untrained_network_renders_a_body(body, connectivity, make_frames, queries):
    frames = make_frames(size=192)
    options = replace(TEST_MODEL, graph=replace(TEST_MODEL.graph, queries=queries))
    with torch.no_grad():
        avatar = make_model(body, connectivity, options)(frames).avatar
        alphas = render_avatar(avatar, body, frames.body, frames.cameras).alphas
    assert avatar.count == queries * body.num_vertices
    ours, body_covers = alphas > 0.5, frames.alphas > 0.5
    iou = (ours & body_covers).sum() / (ours | body_covers).sum()
    assert iou > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("options", [TEST_MODEL, RESIDUAL], ids=["vertex", "residual"])
@pytest.mark.parametrize(("color_sampling", "feedback"), [(True, 0), (False, 0), (True, 2)])
def test_gradients_reach_every_parameter(body, connectivity, make_frames, options, color_sampling, feedback):
    frames = make_frames(batch=2)
    model = make_model(body, connectivity, replace(options, color_sampling=color_sampling, feedback=feedback))
    output = model(frames)
    cameras = replace(frames.cameras, viewmats=frames.cameras.viewmats[:, :1], Ks=frames.cameras.Ks[:, :1])
    rendering = render_avatar(output.avatar, body, frames.body[:, :1], cameras)
    loss = (rendering.colors - frames.images[:, :1]).square().mean() + rendering.alphas.square().mean()
    (loss + output.frame.distances.mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("feedback", [0, 1])
@pytest.mark.parametrize("options", [TEST_MODEL, RESIDUAL], ids=["vertex", "residual"])
def test_gradients_reach_the_attention_to_patches(body, connectivity, make_frames, options, feedback):
    """Colours are copied with the vertex head only, and their context is used by feedback only."""
    graph = replace(options.graph, patches=16)
    model = make_model(body, connectivity, replace(options, graph=graph, feedback=feedback))
    for node in model.graph.patch_attention:
        torch.nn.init.normal_(node.out.weight)  # zero at first, so that no other weight of the node has a gradient
    avatar = model(make_frames()).avatar
    sum(getattr(avatar, name).square().sum() for name in TENSORS).backward()
    parts = {"graph.patch_attention"} if options is RESIDUAL else {"graph.patch_attention", "color_attention"}
    found = {part: [n for n, _ in model.named_parameters() if n.startswith(part)] for part in parts}
    assert (model.color_attention is None) == (options is RESIDUAL)
    for name in (name for names in found.values() for name in names):
        assert model.get_parameter(name).grad.abs().max() > 0, name
    assert all(found.values())


def test_stage_frame_trains_the_unet_alone(body, connectivity, make_frames):
    model = make_model(body, connectivity)
    frame = model.frame_gaussians(make_frames())
    terms = [x.square().sum() for x in (frame.gaussians.means, frame.gaussians.scales, frame.gaussians.colors)]
    (sum(terms) + frame.distances.sum()).backward()
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"unet"}
    assert all(p.grad is not None for p in model.unet.parameters())


@pytest.mark.parametrize("views", [1, 3, 4])
@pytest.mark.parametrize("options", [TEST_MODEL, RESIDUAL], ids=["vertex", "residual"])
def test_any_number_of_views_is_accepted(body, connectivity, make_frames, options, views):
    with torch.no_grad():
        output = make_model(body, connectivity, options)(make_frames(frames=1, views=views))
    gaussians = views * TEST_MODEL.unet.splat_size**2
    assert output.frame.mask.shape == (1, 1, gaussians)
    assert output.avatar.count == (gaussians if options is RESIDUAL else 2 * body.num_vertices)
    assert all(getattr(output.avatar, name).isfinite().all() for name in TENSORS)


def test_frame_gaussians_have_their_nearest_vertex_and_the_direction_of_their_camera(model, make_frames, body):
    frames = make_frames()
    with torch.no_grad():
        frame = model.frame_gaussians(frames)
    vertices = body(frames.body).vertices
    gaps = torch.cdist(frame.gaussians.means, vertices)
    torch.testing.assert_close(frame.distances[frame.mask], gaps.amin(-1)[frame.mask], rtol=0, atol=1e-4)
    assert (frame.distances[~frame.mask] == 0).all() and (frame.gaussians.opacities[~frame.mask] == 0).all()
    centres = frames.cameras.centers.repeat_interleave(TEST_MODEL.unet.splat_size**2, 2)
    along = centres - frame.gaussians.means
    torch.testing.assert_close(frame.towards_camera * along.norm(dim=-1, keepdim=True), along, rtol=0, atol=1e-5)


def test_a_frame_with_empty_masks_changes_nothing(model, make_frames):
    frames = make_frames(frames=2)
    longer = Frames(
        torch.cat([frames.images, 1 - frames.images[:, :1]], 1),
        torch.cat([frames.alphas, torch.zeros_like(frames.alphas[:, :1])], 1),
        replace(
            frames.cameras,
            viewmats=torch.cat([frames.cameras.viewmats, frames.cameras.viewmats[:, :1]], 1),
            Ks=torch.cat([frames.cameras.Ks, frames.cameras.Ks[:, :1]], 1),
        ),
        frames.body[:, [0, 1, 0]],
    )
    with torch.no_grad():
        assert_same_avatar(model(longer).avatar, model(frames).avatar, atol=1e-5)


def test_the_order_of_frames_does_not_matter(model, make_frames):
    frames = make_frames(frames=3)
    with torch.no_grad():
        assert_same_avatar(model(frames[:, [2, 0, 1]]).avatar, model(frames).avatar, atol=1e-5)


@pytest.mark.parametrize("options", [TEST_MODEL, RESIDUAL], ids=["vertex", "residual"])
def test_subjects_of_a_batch_do_not_influence_each_other(body, connectivity, make_frames, options):
    model, pair = make_model(body, connectivity, options), make_frames(batch=2)
    with torch.no_grad():
        together = model(pair).avatar
        for subject in range(2):
            alone = model(pair[subject : subject + 1]).avatar
            assert_same_avatar(together[subject : subject + 1], alone, atol=1e-5)
            torch.testing.assert_close(alone.betas[0], pair.body.betas[subject].mean(0))


def test_the_residual_head_starts_from_the_first_frame(body, connectivity, make_frames):
    frames = make_frames(frames=2, size=64)
    model = make_model(body, connectivity, replace(RESIDUAL, color_sampling=False))
    torch.nn.init.zeros_(model.head.layers[-1].weight)
    with torch.no_grad():
        output = model(frames)
        first, avatar = output.frame.gaussians[:, 0], output.avatar
        near = avatar.offsets.norm(dim=-1) < 0.9 * MAX_OFFSET  # unposing limits larger distances
        back = pose_avatar(avatar, body, frames.body[:, :1]).means[:, 0]
    mask = output.frame.mask[:, 0]
    assert (avatar.opacities[~mask] == 0).all() and (avatar.opacities[mask] > 0).all()
    assert (mask & near).sum() > 20
    torch.testing.assert_close(back[mask & near], first.means[mask & near], rtol=0, atol=1e-4)


def test_color_sampling_does_not_move_gaussians(body, connectivity, make_frames):
    frames = make_frames(size=64)
    on = make_model(body, connectivity)
    off = make_model(body, connectivity, replace(TEST_MODEL, color_sampling=False))
    off.load_state_dict({k: v for k, v in on.state_dict().items() if not k.startswith("color_sampling")})
    with torch.no_grad():
        sampled, plain = on(frames).avatar, off(frames).avatar
    torch.testing.assert_close(sampled.offsets, plain.offsets)
    torch.testing.assert_close(sampled.quats, plain.quats)
    assert (sampled.colors - plain.colors).abs().mean() > 0.05


@pytest.mark.parametrize("options", [TEST_MODEL, RESIDUAL], ids=["vertex", "residual"])
def test_wrists_twisted_by_3_rad_give_finite_results(body, connectivity, make_frames, options):
    frames = make_frames()
    pose = frames.body.body_pose.clone()
    pose[..., 57], pose[..., 60] = 3.0, -3.0  # both wrists (joints 20 and 21) about the arm's axis
    frames = replace(frames, body=replace(frames.body, body_pose=pose))
    model = make_model(body, connectivity, options)
    output = model(frames)
    rendering = render_avatar(output.avatar, body, frames.body, frames.cameras)
    (rendering.colors.square().mean() + output.frame.distances.mean()).backward()
    assert rendering.colors.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_mixed_precision_changes_offsets_by_little(model, make_frames):
    frames = make_frames()
    with torch.no_grad():
        exact = model(frames).avatar
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(frames).avatar
    assert all(getattr(mixed, name).dtype == torch.float32 for name in TENSORS)
    # Raw channels are rounded to bf16's 8 bits, which moves offsets by micrometres; metres in bf16 are less exact.
    assert (mixed.offsets - exact.offsets).abs().mean() < 2e-4


def test_the_state_contains_no_array_of_the_body(model, body):
    state = model.state_dict()
    assert not [name for name in state if name.startswith("body") or "neighbors" in name or "axes" in name]
    body_arrays = [x for x in body.buffers() if x.is_floating_point()]
    for name, value in state.items():
        for array in body_arrays:
            assert value.shape != array.shape or not torch.equal(value, array), name


def test_models_of_the_same_seed_are_equal(body, connectivity, model):
    again = make_model(body, connectivity)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_connectivity_of_another_body_is_refused(body, connectivity):
    with pytest.raises(InputError, match="another-body"):
        HumanGaussianGraph(TEST_MODEL, body, replace(connectivity, fingerprint="another-body"))


def test_connectivity_with_another_number_of_neighbours_is_refused(body, connectivity):
    fewer = replace(connectivity, neighbors=connectivity.neighbors[:, :5], mask=connectivity.mask[:, :5])
    with pytest.raises(InputError, match=r"has 5 neighbours .* --num-neighbors 18"):
        HumanGaussianGraph(TEST_MODEL, body, fewer)


def test_graph_options_are_used(body, connectivity):
    only_inter = replace(TEST_MODEL, graph=GraphOptions(features=8, queries=1, layers=1, heads=2, intra=False))
    model = make_model(body, connectivity, only_inter)
    assert len(model.graph.intra) == 0 and len(model.graph.inter) == 1


def test_the_search_for_nearest_vertices_is_passed_on(body, connectivity, make_frames, monkeypatch):
    searches = []

    def search(points, vertices, mask, name):
        searches.append(name)
        return nearest_vertices(points, vertices, mask)

    monkeypatch.setattr("core.model.frame_gaussians.nearest_vertices", search)
    monkeypatch.setattr("core.model.hgg.check_nearest_search", lambda name: None)
    model = make_model(body, connectivity)
    with torch.no_grad():
        model.frame_gaussians(make_frames())
        model.set_nearest_search("pytorch3d")
        model.frame_gaussians(make_frames())
    assert searches == ["auto", "pytorch3d"]


def test_an_unknown_search_for_nearest_vertices_is_refused(model):
    with pytest.raises(InputError, match="nearest must be one of"):
        model.set_nearest_search("guess")
