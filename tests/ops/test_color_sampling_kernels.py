"""Kernels of image colour sampling against their references, in Triton's interpreter or on a GPU."""

from dataclasses import replace

import pytest
import torch
from model_rig import ring_cameras
from torch import nn

from core.model.color_sampling import ColorSampling
from core.ops.color_blend import blend_reference, kernel_inputs
from core.ops.color_observations import ColorObservations, observe_reference
from core.ops.color_sampling_constants import NUM_FEATURES, VISIBLE
from core.types.frames import Frames
from core.types.gaussians import Gaussians
from smpl_renderer.types import BodyParams

pytest.importorskip("triton")

from core.ops.color_blend_kernel import BlendColors
from core.ops.color_observations_kernel import launch_observe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_observations(subjects: int, frames: int, views: int, count: int, seed: int = 0) -> ColorObservations:
    """A third of the observations is visible. The first third of the Gaussians is invisible, at least a whole block."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(subjects, frames, views, NUM_FEATURES, count, generator=generator)
    visible = features[..., VISIBLE, :] < 0.3
    visible[..., : count // 3] = False
    features[..., VISIBLE, :] = 1
    features = features * visible[..., None, :]
    consensus = torch.rand(subjects, count, 3, generator=generator)
    return ColorObservations(features, consensus, torch.zeros(subjects, count))


def random_module(hidden: int) -> ColorSampling:
    torch.manual_seed(0)
    module = ColorSampling(6, hidden)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


@pytest.mark.parametrize(("subjects", "frames", "views", "count", "hidden"), [(2, 2, 3, 200, 32), (1, 1, 1, 5, 16)])
def test_blended_colours_and_all_gradients_equal_the_reference(subjects, frames, views, count, hidden):
    seen = random_observations(subjects, frames, views, count)
    generator = torch.Generator().manual_seed(1)
    own_colors = torch.rand(subjects, count, 3, generator=generator)
    own_logits = torch.randn(subjects, count, generator=generator)
    context = torch.randn(subjects, count, hidden, generator=generator)
    cotangent = torch.randn(subjects, count, 3, generator=generator)
    module = random_module(hidden)

    def run(blend, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
        layers = ColorSampling(6, hidden).to(DEVICE, dtype)
        layers.load_state_dict(module.state_dict())
        own = [x.to(DEVICE, dtype).requires_grad_() for x in (own_colors, own_logits, context)]
        moved = replace(seen, features=seen.features.to(DEVICE, dtype), consensus=seen.consensus.to(DEVICE, dtype))
        colors = blend(moved, *own, layers.embed_observation, layers.attention_mlp)
        weights = [*layers.embed_observation.parameters(), *layers.attention_mlp.parameters()]
        return colors, torch.autograd.grad((colors * cotangent.to(DEVICE, dtype)).sum(), [*own, *weights])

    def by_kernels(seen, own_colors, own_logits, context, embed: nn.Linear, attention_mlp: nn.Sequential):
        return BlendColors.apply(
            *kernel_inputs(seen, own_colors, context, embed, attention_mlp), own_logits, own_colors
        )

    colors, grads = run(by_kernels, torch.float32)
    expected, expected_grads = run(blend_reference, torch.float64)
    # float32 sums of hundreds of products, three tf32 products each on a GPU.
    torch.testing.assert_close(colors.double(), expected, rtol=0, atol=2e-5)
    tolerance = 1e-4 if DEVICE == "cpu" else 2e-3  # single tf32 products, which are finer than the bf16 of training
    for actual, wanted in zip(grads, expected_grads):
        torch.testing.assert_close(actual.double(), wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())


def scene(count: int = 150, frames: int = 2, views: int = 3, size: int = 40) -> tuple:
    """A ball of Gaussians with random normals, some of them transparent, in images with round masks.

    One of the masks is empty.
    """
    generator = torch.Generator().manual_seed(0)
    subjects, vertices = 2, 60
    normals = nn.functional.normalize(torch.randn(vertices, 3, generator=generator), dim=-1)
    vertex_ids = torch.randint(vertices, (subjects, count), generator=generator)
    batch = (subjects, frames)
    means = nn.functional.normalize(torch.randn(*batch, count, 3, generator=generator), dim=-1)
    means = 0.6 * means + 0.1 * torch.randn(means.shape, generator=generator)
    means[0, 0, :5] *= 100  # outside of all images
    opacities = (1.2 * torch.rand(subjects, count, generator=generator) - 0.2).clamp(0, 1)
    gaussians = Gaussians(means, torch.ones(*batch, count, 4), means, opacities[:, None].expand(*batch, count), means)
    rotations = torch.linalg.qr(torch.randn(*batch, vertices, 3, 3, generator=generator))[0]
    ring = ring_cameras(views, size)
    cameras = replace(ring, viewmats=ring.viewmats.expand(*batch, views, 4, 4), Ks=ring.Ks.expand(*batch, views, 3, 3))
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    alphas = ((1.2 - (x.square() + y.square()).sqrt()) * 2).clamp(0, 1).repeat(*batch, views, 1, 1, 1)
    alphas[1, 0, 1] = 0
    images = torch.rand(*batch, views, 3, size, size, generator=generator)
    inputs = Frames(images, alphas, cameras, BodyParams.zeros(*batch))
    return tuple(x.to(DEVICE) for x in (gaussians, vertex_ids, rotations, normals, inputs))


@pytest.mark.slow
def test_observations_equal_the_reference():
    inputs = scene()
    actual, expected = ColorObservations(*launch_observe(*inputs)), observe_reference(*inputs)
    agree = actual.visible == expected.visible
    assert 0.05 < expected.visible.float().mean() < 0.5
    assert agree.float().mean() > 0.998  # rounding may move a Gaussian to another cell
    same = agree[..., None, :].expand_as(actual.features)
    torch.testing.assert_close(actual.features[same], expected.features[same], rtol=1e-4, atol=1e-4)
    whole = agree.all(1).all(1)
    torch.testing.assert_close(actual.consensus[whole], expected.consensus[whole], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.outside, expected.outside, rtol=1e-4, atol=1e-3)
