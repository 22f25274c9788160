"""Options of `infer.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from core.capture.options import PrepareOptions
from core.utils.device import DeviceName
from core.utils.ranges import Count, CountOrZero, ImageSize, Range
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

SHIPPED_CAPTURES = REPOSITORY / "test_dataset"
SHIPPED_CHECKPOINT = REPOSITORY / "pretrained" / "hgg_demo.safetensors"


@dataclass(frozen=True)
class InferenceOptions:
    """Make avatars of captured people, render them and, with --evaluate, measure them."""

    captures: Positional[Path] = SHIPPED_CAPTURES
    """Folder of one capture, or a folder of captures. Or a video, an image, a folder of images or of cameras: a capture
    is made of it first, in <workspace>/<name>/capture/."""
    checkpoint: Path = SHIPPED_CHECKPOINT
    """Checkpoint written by training."""
    workspace: Path = Path("workspace/inference")
    """Output folder: results of a subject in <workspace>/<subject>/, metrics in <workspace>/metrics.json."""
    evaluate: bool = False
    """Measure PSNR, SSIM and LPIPS of novel views and novel poses. The novel poses are held out from the inputs."""
    protocol: Literal["auto", "quick", "full", "paper"] = "auto"
    """Frames and cameras. quick: 3 target views; full: all; paper: full, on its ten subjects only. auto: full on a GPU,
    quick without."""
    full: bool = False
    """Without a GPU too: protocol full, and long videos."""
    device: DeviceName = "auto"
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Precision of the network. auto: as in training, bf16 on a GPU and float32 without."""
    refine: CountOrZero | None = None
    """Gradient steps of the refinement on the input images; 0: none. By default 24 on a GPU, 12 without. A step takes
    about 3 ms on a GPU, and a quarter of a second without."""
    align: CountOrZero | None = None
    """Gradient steps that correct the body fits of the inputs (and, with several cameras, their poses) and the colour
    gains of the images by renderings of a first avatar, before the avatar is made again; 0: none. By default 25 for a
    capture that was made of one's own images or video, none for others."""
    complete: bool = True
    """Take the colours of what no input image shows from what was seen: the other side, around a limb, hair. Of use
    with one image or few; with images from all around it has almost no effect."""
    backend: str = "auto"
    """Rasterizer: auto (triton on CUDA, else numba), torch, numba, triton, gsplat, diff_gaussian_rasterization."""
    nearest: Literal["auto", "torch_cluster", "pytorch3d"] = "auto"
    """Search for the nearest vertex of each Gaussian: built in, or by one of these packages where it is installed."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """Kernels of the U-Net's attention on CUDA: PyTorch's, or those of `xformers` where it is installed."""
    body: Path | None = None
    """Body model file; by default that of the first capture, found by its fingerprint. A checkpoint of another body is
    transferred to it."""
    input_views: tuple[str, ...] | None = None
    """Names of the input cameras, the front camera first; by default those of the protocol."""
    observed_frames: tuple[CountOrZero, ...] | None = None
    """Image ids of the input frames; by default those of the protocol."""
    novel_frames: tuple[CountOrZero, ...] | None = None
    """Image ids of the frames to hold out as novel poses; by default, with --evaluate, those of the protocol."""
    input_size: ImageSize | None = None
    """Side of the input images in pixels; by default as in training."""
    input_crop: Literal["center", "person"] | None = None
    """Crop of the input images; by default as in training."""
    video_size: Annotated[int, Range(16, 8192)] | None = None
    """Side of the videos in pixels; by default 512 on a GPU and 256 without."""
    video_frames: Count | None = None
    """Frames per video; by default 120 on a GPU and 48 without."""
    motion: str | None = None
    """Motion of the second video: idle, walk, wave, turn, dance, sit, squat, or a motion file (docs/motion.md). By
    default it moves through poses of the capture that are not inputs; where these are fewer than four, dance."""
    ply_degree: Literal[0, 1, 2, 3] = 0
    """Degree of the spherical harmonics in avatar.ply. Colours have degree 0; some viewers require the `f_rest_*` of
    degree 3, which are then written as zeros, and the file is almost four times as large."""

    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    """Preparation of a capture from a video or images."""

    def check_combination(self, prefix: str = "") -> None:
        """Check options that depend on each other (`core.utils.ranges.check_ranges`)."""
        for name in ("input_views", "observed_frames", "novel_frames"):
            if getattr(self, name) == ():
                raise InputError(f"--{name.replace('_', '-')} must name at least one, or be left out")
        if both := sorted(set(self.observed_frames or ()) & set(self.novel_frames or ())):
            raise InputError(f"--observed-frames and --novel-frames must differ, but both name {both[0]:04d}")
