"""What can be asked of `infer.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from core.utils.device import DeviceName
from smpl_renderer.files import REPOSITORY

SHIPPED_CAPTURES = REPOSITORY / "test_dataset"
SHIPPED_CHECKPOINT = REPOSITORY / "pretrained" / "hgg_demo.safetensors"


@dataclass(frozen=True)
class InferenceOptions:
    """Make avatars of captured people; show them and, with --evaluate, measure them."""

    captures: Positional[Path] = SHIPPED_CAPTURES
    """A subject's folder in MVHumanNet's layout, or a folder of them."""
    checkpoint: Path = SHIPPED_CHECKPOINT
    """What training wrote."""
    workspace: Path = Path("workspace/inference")
    """Results of each subject go to <workspace>/<subject>/, numbers to <workspace>/metrics.json."""
    evaluate: bool = False
    """Measure PSNR, SSIM and LPIPS of novel views and novel poses."""
    protocol: Literal["auto", "quick", "full", "paper"] = "auto"
    """Frames and cameras. quick: 3 target views; full: all; paper: full, on its ten people only. auto: full on a
    GPU, quick without."""
    full: bool = False
    """Without a GPU too: protocol full, and long videos."""
    device: DeviceName = "auto"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the network. auto: as it is trained, bf16 on a GPU and float32 without."""
    refine: int | None = None
    """Steps of gradient descent on the input pictures that refine the network's avatar; 0: none, by default 24 on a GPU
    and 12 without. About 3 ms a step on a GPU, and a second or two without."""
    backend: str = "auto"
    """Rasterizer: auto (triton on CUDA, else torch), torch, triton, gsplat, diff_gaussian_rasterization."""
    body: Path | None = None
    """Body model file; by default it is found by the checkpoint's fingerprint."""
    input_views: tuple[str, ...] | None = None
    """Names of the cameras shown to the model, the first of them being the front; by default the protocol's."""
    observed_frames: tuple[int, ...] | None = None
    """Image ids shown to the model; by default the protocol's."""
    input_size: int | None = None
    """Pixels of the pictures shown to the model; by default as in its training."""
    input_crop: Literal["center", "person"] | None = None
    """Crop of the pictures shown to the model; by default as in its training."""
    video_size: int | None = None
    """Pixels of the videos; by default 512 on a GPU and 256 without."""
    video_frames: int | None = None
    """Frames of each video; by default 120 on a GPU and 48 without."""
