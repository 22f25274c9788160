"""A small data set, and options with which every stage trains in seconds."""

from pathlib import Path

import pytest
from tiny_capture import TinyCapture
from tiny_network import TINY_UNET
from torch import Tensor

from core.options import DataOptions, GraphOptions, LossOptions, ModelOptions, TrainOptions
from core.render import Rendering
from core.types.gaussians import Gaussians

MODEL = ModelOptions(
    unet=TINY_UNET,
    graph=GraphOptions(features=8, queries=1, layers=1, heads=2, dropout=0.1),
)


@pytest.fixture(scope="session")
def captures(tmp_path_factory, body) -> Path:
    """Three subjects of three frames, captured by four cameras."""
    root = tmp_path_factory.mktemp("captures")
    for i in range(3):
        capture = TinyCapture(image_size=(153, 128), frames=(5, 10, 15), num_cameras=4)
        capture.write(root / str(200100 + i), body)
    return root


@pytest.fixture
def options(captures, tmp_path) -> TrainOptions:
    """Four short steps on the CPU; the model has dropout, whose random state has to be restored, too."""
    return TrainOptions(
        data=DataOptions(
            root=captures,
            crop="person",
            image_size=32,
            input_views=("22327091", "22236236"),
            min_input_views=1,
            input_frames=2,
            min_input_frames=1,
            target_frames=2,
            novel_frames=1,
            target_views=3,
            num_workers=0,
        ),
        model=MODEL,
        loss=LossOptions(lpips=0.0, ssim=0.1),
        workspace=tmp_path / "run",
        device="cpu",
        steps=4,
        lr=1e-3,
        log_every=2,
        image_every=100,
        eval_every=100,
        save_every=2,
        validation=1,
    )


@pytest.fixture
def flat_images(monkeypatch) -> None:
    """Replace renderings by images of one colour, for tests of everything except the rendering."""

    def rasterize(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int, **_) -> Rendering:
        means, scales = gaussians.means.mean((-2, -1)), gaussians.scales.mean((-2, -1))
        tones = gaussians.colors.mean(-2) + (means + scales + gaussians.quats[..., 0].mean(-1))[..., None]
        colors = tones[..., None, :, None, None].expand(*Ks.shape[:-2], 3, height, width)
        alphas = gaussians.opacities.mean(-1)[..., None, None, None, None].expand(*Ks.shape[:-2], 1, height, width)
        return Rendering(colors, alphas)

    monkeypatch.setattr("core.avatar.rendering.rasterize", rasterize)
