"""LPIPS: its structure with random weights, and its values with the published ones if they are installed."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from core.losses.lpips import LPIPS, WEIGHTS_FOLDER, load_lpips
from smpl_renderer.errors import InputError

# Measured with float32 weights on a CPU; the vgg ones equal those of the `lpips` package. Order as in `disturbed`.
PUBLISHED = {"vgg": (0.0129155, 0.5193744, 0.0702327), "alex": (0.00075286, 0.4064387, 0.0147388)}


def random_lpips(net: str) -> LPIPS:
    model = LPIPS(net)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / max(1, parameter[0].numel())) ** 0.5)
    for head in model.heads:
        head.abs_()
    return model


def procedural(size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image, and three distorted versions of it: blurred, noisy, shifted."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    image = torch.stack([torch.sin(6 * x), torch.cos(5 * y), x * y]) / 2 + 0.5
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=image.shape)).float()
    blurred = F.avg_pool2d(image, 9, 1, 4, count_include_pad=False)
    return image, torch.stack([blurred, (image + 0.15 * noise).clamp(0, 1), image.roll(2, -1)])


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_is_a_distance_of_images(net):
    model = random_lpips(net)
    image, disturbed = procedural(48)
    distances = model(image.expand_as(disturbed), disturbed)
    assert distances.shape == (3,) and (distances > 1e-4).all()
    torch.testing.assert_close(model(disturbed, image.expand_as(disturbed)), distances)
    assert model(disturbed, disturbed).abs().max() == 0
    # Any batch axes, each image independent of the others; convolutions of other batch sizes sum in another order.
    nested = model(image.expand_as(disturbed)[None], disturbed[None])
    torch.testing.assert_close(nested, distances[None], rtol=1e-4, atol=1e-6)


def test_first_layer_and_head_follow_the_paper():
    model = random_lpips("vgg")
    image, disturbed = procedural(16)
    pair = torch.stack([image, disturbed[1]]).numpy()
    shift, scale = np.array([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[:, :, None, None]
    scaled = (2 * pair - 1 - shift) / scale
    activations = scaled
    for conv in model.convs[:2]:
        padded = np.pad(activations, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        summed = np.einsum("nchwij,ocij->nohw", windows, conv.weight.numpy()) + conv.bias.numpy()[:, None, None]
        activations = np.maximum(summed, 0)
    unit = activations / (np.sqrt((activations**2).sum(1, keepdims=True)) + 1e-10)
    expected = (((unit[0] - unit[1]) ** 2) * model.heads[0].numpy()[:, None, None]).sum(0).mean()
    first, second = (model.features(x[None])[0] for x in (image, disturbed[1]))
    actual = ((first - second).square() * model.heads[0][:, None, None]).sum(1).mean()
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_gradients_reach_the_prediction_but_no_weight():
    model = random_lpips("alex")
    image, disturbed = procedural(48)
    predicted = disturbed[1].clone().requires_grad_()
    model(predicted[None], image[None]).sum().backward()
    assert predicted.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


def test_missing_weights_are_reported_with_the_remedy(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert load_lpips("vgg", tmp_path) is None
    assert "python scripts/get_lpips.py" in caplog.text


def test_weights_are_loaded_from_the_folder_and_checked(tmp_path):
    expected = random_lpips("alex")
    save_file(expected.state_dict(), tmp_path / "alex.safetensors")
    image, disturbed = procedural(48)
    found = load_lpips("alex", tmp_path)
    torch.testing.assert_close(found(disturbed[:1], image[None]), expected(disturbed[:1], image[None]))
    save_file({"convs.0.bias": torch.zeros(64)}, tmp_path / "alex.safetensors")
    with pytest.raises(InputError, match=r"alex\.safetensors do not fit alex; run python scripts/get_lpips\.py"):
        load_lpips("alex", tmp_path)
    (tmp_path / "alex.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match=r"alex\.safetensors"):
        load_lpips("alex", tmp_path)


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.slow
def test_kernels_equal_the_definition(size):
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_lpips("vgg").to(device)
    image, disturbed = procedural(size)
    if device == "cpu":  # a uniform image, on which CPU convolutions are uniform too, tests ties in pooling
        disturbed[0] = 0.4
    target = image.expand_as(disturbed[:2]).to(device)
    weights = torch.tensor([1.0, -0.3], device=device)  # a different cotangent for each image
    results = []
    for distance in (lambda p, t: model.fused(p, t, torch.float32), model):
        predicted = disturbed[:2].to(device).requires_grad_()
        distances = distance(predicted, target)
        results.append((distances, *torch.autograd.grad((weights * distances).sum(), predicted)))
    for actual, expected in zip(*results):
        # Sums of thousands of products, in another order.
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.gpu
def test_in_half_precision_distances_and_gradients_are_close():
    model = random_lpips("vgg").cuda()
    image, disturbed = procedural(256)
    target = image.expand_as(disturbed).cuda()
    results = []
    for autocast in (False, True):
        predicted = disturbed.cuda().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            distances = model(predicted, target)
        results.append((distances, *torch.autograd.grad(distances.sum(), predicted)))
    (exact, exact_grads), (distances, grads) = results
    # Rounding alone gives a distance of about 2e-4; half precision resolves nothing below that.
    torch.testing.assert_close(distances, exact, rtol=0.01, atol=3e-4)
    # The first image is so close to the target that its gradient is mostly rounding.
    assert (F.cosine_similarity(grads.flatten(1), exact_grads.flatten(1)) > torch.tensor([0.5, 0.97, 0.9]).cuda()).all()


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_published_weights_give_the_published_distances(net):
    if not (WEIGHTS_FOLDER / f"{net}.safetensors").is_file():
        pytest.skip("python scripts/get_lpips.py has not been run")
    image, disturbed = procedural()
    distances = load_lpips(net)(disturbed, image.expand_as(disturbed))
    # The file's float16 weights change distances by less than 0.1 %.
    torch.testing.assert_close(distances, torch.tensor(PUBLISHED[net]), rtol=1e-3, atol=0)
