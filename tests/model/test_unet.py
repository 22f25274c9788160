import pytest
import torch
from model_rig import TEST_UNET

from core.model.decode import RAW_CHANNELS
from core.model.unet import INPUT_CHANNELS, UNet
from core.options import BIG_UNET, MODELS, UNetOptions
from smpl_renderer.errors import InputError


def test_big_has_the_papers_size():
    with torch.device("meta"):
        unet = UNet(BIG_UNET, RAW_CHANNELS)
    count = sum(p.numel() for p in unet.parameters())
    assert count == pytest.approx(415e6, rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_presets_give_maps_of_the_size_they_state(name):
    options = MODELS[name].unet
    with torch.device("meta"):
        raw, features = UNet(options, RAW_CHANNELS)(
            torch.empty(1, 2, INPUT_CHANNELS, options.input_size, options.input_size)
        )
    assert raw.shape == (1, 2, RAW_CHANNELS, options.splat_size, options.splat_size)
    assert features.shape[-2:] == raw.shape[-2:]


@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_any_number_of_views_and_their_order_does_not_matter(views):
    torch.manual_seed(0)
    unet = UNet(TEST_UNET, RAW_CHANNELS)
    x = torch.randn(2, views, INPUT_CHANNELS, 32, 32)
    order = torch.randperm(views)
    raw, features = unet(x)
    shuffled_raw, shuffled_features = unet(x[:, order])
    torch.testing.assert_close(shuffled_raw, raw[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled_features, features[:, order], rtol=1e-4, atol=1e-5)


def test_views_see_each_other_and_moments_do_not():
    torch.manual_seed(0)
    unet = UNet(TEST_UNET, RAW_CHANNELS)
    x = torch.randn(2, 2, INPUT_CHANNELS, 32, 32)
    changed = x.clone()
    changed[0, 1] += 1
    before, after = unet(x)[0], unet(changed)[0]
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-4
    torch.testing.assert_close(after[1], before[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"splat_size": 8},
        {"down_attention": (False,)},
        {"up_attention": (False,)},
        {"input_size": 34, "splat_size": 17},
        {"up_channels": (8, 8, 8, 8), "up_attention": (False,) * 4},
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong):
    options = {**TEST_UNET.__dict__, **wrong}
    with pytest.raises(InputError):
        UNet(UNetOptions(**options), RAW_CHANNELS)
