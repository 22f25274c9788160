"""LPIPS, the learned perceptual distance of Zhang et al. (2018), without torchvision.

The weights are not part of this repository: `scripts/get_lpips.py` downloads them. Copies stored by torch hub and the
`lpips` package are used as well.
"""

import importlib.util
import logging
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smpl_renderer.bounded_files import CONTENT_ERRORS, load_torch
from smpl_renderer.dispatch import can_use_kernels
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY
from smpl_renderer.tensor_files import open_tensors

logger = logging.getLogger(__name__)

Net = Literal["vgg", "alex"]
WEIGHTS_FOLDER = REPOSITORY / "pretrained" / "lpips"
MAX_WEIGHTS_BYTES = 2**30
"""Largest file of weights; torchvision's of VGG-16 has 0.55 GB."""
REMEDY = "run python scripts/get_lpips.py, whose weights replace these"

# Layers up to the last tap: ("conv", outputs, kernel, stride, padding), followed by a ReLU; ("pool", kernel, stride).
_LAYERS: dict[Net, tuple[tuple, ...]] = {
    "vgg": (
        *(("conv", 64, 3, 1, 1),) * 2,
        *(("pool", 2, 2), *(("conv", 128, 3, 1, 1),) * 2),
        *(("pool", 2, 2), *(("conv", 256, 3, 1, 1),) * 3),
        *(("pool", 2, 2), *(("conv", 512, 3, 1, 1),) * 3),
        *(("pool", 2, 2), *(("conv", 512, 3, 1, 1),) * 3),
    ),
    "alex": (
        ("conv", 64, 11, 4, 2),
        *(("pool", 3, 2), ("conv", 192, 5, 1, 2)),
        *(("pool", 3, 2), ("conv", 384, 3, 1, 1), ("conv", 256, 3, 1, 1), ("conv", 256, 3, 1, 1)),
    ),
}
# Convolutions whose outputs are compared.
_TAPS: dict[Net, tuple[int, ...]] = {"vgg": (1, 3, 6, 9, 12), "alex": (0, 1, 2, 3, 4)}
_TORCH_HUB: dict[Net, str] = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}


class LPIPS(nn.Module):
    """Perceptual distance of images in [0, 1]; 0 for equal images. The weights are fixed.

    State: `convs.<k>.{weight,bias}` in the order of the layers, and `heads.<k>` [C], the channels' weights at each tap.
    """

    def __init__(self, net: Net = "vgg"):
        super().__init__()
        self.net: Net = net
        self.convs = nn.ModuleList()
        channels = 3
        for kind, *sizes in _LAYERS[net]:
            if kind == "conv":
                outputs, kernel, stride, padding = sizes
                self.convs.append(nn.Conv2d(channels, outputs, kernel, stride, padding))
                channels = outputs
        self.heads = nn.ParameterList(torch.ones(self.convs[tap].out_channels) for tap in _TAPS[net])
        # The original expects images in [-1, 1]; these constants include the conversion from [0, 1].
        self.register_buffer("shift", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(
        self, predicted: Float[Tensor, "*batch 3 H W"], target: Float[Tensor, "*batch 3 H W"]
    ) -> Float[Tensor, "*batch"]:
        """Distance of each pair of images. Gradients reach both; detach the target if it needs none.

        Under autocast on CUDA, all of VGG runs in half precision: distances are accurate to a per cent, which suffices
        for a loss. Compute metrics without autocast.
        """
        batch = predicted.shape[:-3]
        if self._can_use_kernels(predicted, target):
            return self.fused(predicted.flatten(0, -4), target.flatten(0, -4)).view(batch)
        pairs = zip(self.features(predicted.flatten(0, -4)), self.features(target.flatten(0, -4)), self.heads)
        distances = [((a - b).square() * head[:, None, None]).sum(1).mean((-2, -1)) for a, b, head in pairs]
        return torch.stack(distances).sum(0).view(batch)

    def _can_use_kernels(self, predicted: Tensor, target: Tensor) -> bool:
        """True if the kernels support these images: the sizes of all maps are even, and the target has no gradient."""
        fits = self.net == "vgg" and predicted.shape[-1] % 16 == predicted.shape[-2] % 16 == 0
        lowered = torch.is_autocast_enabled("cuda")
        return fits and lowered and can_use_kernels(predicted, constants=[target], dtypes=None)

    def fused(
        self, predicted: Float[Tensor, "n 3 H W"], target: Float[Tensor, "n 3 H W"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, " n"]:
        """`forward` for VGG with kernels that need few passes over memory; gradients reach `predicted` only.

        Args:
            dtype: Compute dtype of the layers; by default that of autocast.
        """
        from core.losses.lpips_kernel import VggDistance  # needs Triton

        dtype = dtype or torch.get_autocast_dtype("cuda")
        with torch.autocast(predicted.device.type, enabled=False):
            weights = [conv.weight.to(dtype, memory_format=torch.channels_last) for conv in self.convs]
            biases = [conv.bias.to(dtype) for conv in self.convs]
            gain, offset = 1 / self.scale, -self.shift / self.scale
            heads = list(self.heads)
            return VggDistance.apply(
                predicted.float(), target.float(), gain, offset, weights, biases, heads, _TAPS["vgg"]
            )

    def features(self, images: Float[Tensor, "n 3 H W"]) -> list[Float[Tensor, "n c h w"]]:
        """Activations at the taps, normalised to unit length along the channels."""
        x = (images - self.shift) / self.scale
        features, convs = [], iter(enumerate(self.convs))
        for kind, *sizes in _LAYERS[self.net]:
            if kind == "pool":
                x = F.max_pool2d(x, *sizes)
                continue
            index, conv = next(convs)
            x = F.relu(conv(x))
            if index in _TAPS[self.net]:
                wide = x.float()  # squares of bf16 activations lose small differences
                features.append(wide / (torch.linalg.vector_norm(wide, dim=1, keepdim=True) + 1e-10))
        return features


def load_lpips(net: Net = "vgg", folder: Path = WEIGHTS_FOLDER) -> LPIPS | None:
    """LPIPS with the published weights; None, and a warning with the remedy, if no weights are found.

    Raises:
        InputError: If the file of weights is damaged or does not fit.
    """
    path = folder / f"{net}.safetensors"
    state = _read_file(path) if path.is_file() else _read_caches(net)
    if state is None:
        logger.warning("LPIPS (%s) is disabled, its weights are missing; run python scripts/get_lpips.py", net)
        return None
    model = LPIPS(net)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        source = path if path.is_file() else "torch hub and the lpips package"
        raise InputError(f"the LPIPS weights of {source} do not fit {net}; {REMEDY}") from error
    return model.eval()


def _read_file(path: Path) -> dict[str, Tensor]:
    """Weights that `scripts/get_lpips.py` wrote, in float32."""
    with open_tensors(path, MAX_WEIGHTS_BYTES, "weights of LPIPS", REMEDY) as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)


def _read_caches(net: Net) -> dict[str, Tensor] | None:
    """Weights that torchvision and the `lpips` package have stored on this machine, or None if one is missing."""
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / _TORCH_HUB[net]
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None or not backbone.is_file():
        return None
    heads_path = Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"
    if not heads_path.is_file():
        return None
    try:
        layers, heads = (load_torch(path, MAX_WEIGHTS_BYTES, "weights of LPIPS") for path in (backbone, heads_path))
        positions = sorted({int(name.split(".")[1]) for name in layers if name.startswith("features.")})
        state = {f"heads.{k}": heads[f"lin{k}.model.1.weight"].flatten() for k in range(len(_TAPS[net]))}
        for index, position in enumerate(positions):
            for part in ("weight", "bias"):
                state[f"convs.{index}.{part}"] = layers[f"features.{position}.{part}"]
    except InputError:
        raise
    except (OSError, RuntimeError, UnpicklingError, *CONTENT_ERRORS) as error:
        raise InputError(f"{backbone} or {heads_path}: no weights of LPIPS ({error}); {REMEDY}") from error
    return state
