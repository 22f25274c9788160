"""Everything that can be set about a run, and the presets: values of these options under a name."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class UNetOptions:
    """The U-Net from pictures to splat maps, in the shape of LGM (Tang et al., 2024)."""

    input_size: int = 256
    """Pixels of the network's square input pictures."""
    splat_size: int = 128
    """Pixels of the splat map: each of them becomes a Gaussian."""
    down_channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 1024)
    down_attention: tuple[bool, ...] = (False, False, False, True, True, True)
    mid_attention: bool = True
    up_channels: tuple[int, ...] = (1024, 1024, 512, 256, 128)
    up_attention: tuple[bool, ...] = (True, True, True, False, False)
    layers_per_block: int = 2


@dataclass(frozen=True)
class GraphOptions:
    """The graph over body vertices (HGG, Sec. 3.3)."""

    features: int = 128
    queries: int = 4
    """Queries, and with the `vertex` head also avatar Gaussians, of each vertex."""
    layers: int = 6
    heads: int = 4
    ffn_factor: int = 4
    neighbors: int = 18
    """Neighbours of a vertex in inter-node attention, itself included."""
    intra: bool = True
    """Attend to the Gaussians tied to the vertex."""
    inter: bool = True
    """Attend to the neighbouring vertices."""
    head: Literal["vertex", "residual"] = "vertex"
    """`vertex`: every query decodes one Gaussian on its vertex. `residual` (the paper's): refine the Gaussians of a
    reference frame."""
    dropout: float = 0.0


@dataclass(frozen=True)
class ModelOptions:
    """The whole network."""

    unet: UNetOptions = UNetOptions()
    graph: GraphOptions = GraphOptions()
    color_sampling: bool = True
    """Colour avatar Gaussians from the input pixels that see them."""
    feedback: int = 0
    """Rounds in which the avatar is drawn, compared with the input pictures and corrected."""


@dataclass(frozen=True)
class DataOptions:
    """Which pictures are read, and how."""

    root: Path = Path("mvhuman_24")
    """Folder of captures (subjects) in MVHumanNet's layout."""
    crop: Literal["center", "person"] = "center"
    """`center`: the largest centred square (the paper's). `person`: a square around the person."""
    image_size: int = 512
    """Pixels of the square pictures that supervise and that the second look reads."""
    input_views: tuple[str, ...] = ("22327091", "22327116", "22236236", "22327073")
    """Names of the input cameras (front, left, back, right). Where a capture lacks them, they are chosen by azimuth."""
    min_input_views: int = 4
    """In training, between this many and all input views are shown (the others are dropped at random)."""
    input_frames: int = 4
    """Moments shown to the model for one avatar."""
    min_input_frames: int = 4
    target_frames: int = 4
    """Moments that supervise: the input frames first, then frames that the model has not seen."""
    novel_frames: int = 0
    """How many of the target frames are poses that the model has not been shown."""
    target_views: int = 8
    """Supervising views of every target frame; the input views first (as in the paper), then random others."""
    target_input_views: int | None = None
    """At most so many of them are input views in training, drawn at random; by default all are. The fewer, the more is
    learned of views that the model has not seen."""
    random_input_views: float = 0.0
    """Share of training samples whose input views are random cameras instead of `input_views`."""
    fit_noise: float = 0.0
    """Noise on the fits of the input frames in training, in radians (those of the target frames stay as they are): 0.02
    is visible. Real fits are off, and a network that has only seen true ones trusts them too much."""
    num_workers: int = 4
    body: Path | None = None
    """A body model file; by default it is found by the capture's fingerprint."""
    verify: bool = True
    """Compare the fits with the masks, once for each subject and worker, and leave out cameras that were moved."""

    @property
    def observed_targets(self) -> int:
        """Number of target frames that are input frames (see `core.types.frames.Sample`)."""
        return self.target_frames - self.novel_frames


@dataclass(frozen=True)
class LossOptions:
    """Weights of the losses; the defaults are the paper's."""

    rgb: float = 1.0
    """Mean squared error of the colours."""
    alpha: float = 1.0
    """Mean squared error of the silhouettes."""
    lpips: float = 1.0
    """Perceptual distance (VGG). Needs `python scripts/get_lpips.py` once; without its weights it is off, with a
    message."""
    lpips_size: int = 256
    """Larger pictures are reduced to this many pixels for it."""
    lpips_crops: bool = False
    """Instead of reducing larger pictures, compare one piece of this size of each, at full sharpness."""
    lpips_from: float = 0.0
    """Share of the run after which it counts: early on it costs more time than it teaches."""
    ssim: float = 0.0
    """Weight of 1 - SSIM."""
    surface_distance: float = 0.4
    """Weight of mean((10 d)^3), d being a frame Gaussian's distance to its nearest vertex, in metres."""


@dataclass(frozen=True)
class TrainOptions:
    """One training run."""

    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    loss: LossOptions = LossOptions()
    stage: Literal["frame", "graph", "joint"] = "joint"
    """`frame`: the U-Net alone, on single frames. `graph`: the graph, U-Net frozen. `joint`: all at once."""
    workspace: Path = Path("workspace")
    """Where checkpoints, logs and the run state go."""
    init: Path | None = None
    """A checkpoint to start from (for `graph`: one of stage `frame`)."""
    connectivity: Path | None = None
    """Neighbourhoods on the mesh, a file of `vertex_connectivity.py`; by default they are built, in about a second."""
    resume: str = "none"
    """`auto`: go on from the newest run state in the workspace, if any. Or the path of a run state."""
    backend: str = "auto"
    """Rasterizer: `auto` (`triton` on CUDA, else `torch`), `torch`, `triton`, `gsplat` or
    `diff_gaussian_rasterization`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """`auto`: bf16 on CUDA, no on a CPU, where bf16 is slower than float32."""
    compile: bool = False
    """Compile the U-Net (CUDA): minutes at the start, faster steps afterwards."""
    cuda_graphs: bool = True
    """Play recordings (CUDA graphs) of the U-Net and of the graph: faster steps, but they hold memory."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """Whose kernels the U-Net's attention runs on CUDA: PyTorch's, or those of `xformers` where it is installed."""
    checkpoint_unet: bool = False
    """Keep only the inputs of the U-Net's layers for its backward pass and compute the rest again: less memory, about a
    third more time."""
    seed: int = 0
    steps: int = 30_000
    max_minutes: float | None = None
    """Finish after this time if `steps` are not done by then; the schedule follows whichever is further. For a leased
    GPU: such a run is not repeatable, because its learning rates depend on the machine's speed."""
    batch_size: int = 1
    """Persons per device and step."""
    accumulate: int = 1
    """Gradient accumulation steps."""
    lr: float = 4e-4
    """Peak learning rate of the one-cycle schedule."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """Largest norm of the gradient."""
    max_bad_steps: int = 20
    """A step whose loss or gradient is not finite is skipped; more of them than this end the run."""
    frame_weight: float = 0.0
    """In stage `joint`: weight of the rendering loss of the single-frame Gaussians."""
    log_every: int = 20
    image_every: int = 500
    eval_every: int = 1000
    save_every: int = 1000
    keep: int = 2
    """Run states that are kept."""
    checkpoint_dtype: Literal["float32", "float16"] = "float32"
    """Numbers in `model.safetensors`; run states are always exact."""
    validation: int = 2
    """Subjects that are held out: the last ones of the list, or the first ones of `validation_root`."""
    validation_root: Path | None = None
    """Another folder of captures to hold out; then all of `data.root` is trained on."""


TINY_UNET = UNetOptions(
    splat_size=64,
    down_channels=(32, 64, 128, 256, 512),
    down_attention=(False, False, False, False, True),
    up_channels=(512, 256, 128),
    up_attention=(True, False, False),
)
SMALL_UNET = UNetOptions(splat_size=64, up_channels=(1024, 1024, 512, 256), up_attention=(True, True, True, False))
BIG_UNET = UNetOptions()
DEMO_UNET = UNetOptions(
    splat_size=64,
    down_channels=(16, 32, 64, 128, 192),
    down_attention=(False, False, False, True, True),
    up_channels=(192, 128, 80),
    up_attention=(True, False, False),
    layers_per_block=1,
)

DEMO_CPU_UNET = UNetOptions(
    input_size=128,
    splat_size=32,
    down_channels=(16, 32, 64, 96),
    down_attention=(False, False, False, True),
    up_channels=(96, 64),
    up_attention=(True, False),
    layers_per_block=1,
)

MODELS: dict[str, ModelOptions] = {
    "tiny": ModelOptions(unet=TINY_UNET),
    "small": ModelOptions(unet=SMALL_UNET),
    "big": ModelOptions(unet=BIG_UNET),
    "demo": ModelOptions(unet=DEMO_UNET, graph=GraphOptions(features=64, layers=3), feedback=3),
    "demo-cpu": ModelOptions(unet=DEMO_CPU_UNET, graph=GraphOptions(features=32, queries=1, layers=2)),
}

_DEMO_LOSS = LossOptions(alpha=0.5, ssim=0.05, lpips=0.0)

_DEMO_GPU = TrainOptions(
    data=DataOptions(
        root=Path("benchmark/crops/train"),
        crop="person",
        image_size=256,
        min_input_views=1,
        input_frames=8,
        min_input_frames=1,
        target_frames=4,
        novel_frames=2,
        target_views=6,
        random_input_views=0.3,
        fit_noise=0.01,
        num_workers=12,
        verify=False,
    ),
    validation_root=Path("benchmark/crops/val"),
    model=MODELS["demo"],
    loss=replace(_DEMO_LOSS, surface_distance=0.04, lpips=0.05, lpips_size=128, lpips_from=0.5),
    device="cuda",
    steps=20_000,
    max_minutes=10.0,
    batch_size=4,
    lr=6e-4,
    warmup=0.03,
    weight_decay=0.01,
    log_every=50,
    image_every=4000,
    eval_every=4000,
    save_every=4000,
    checkpoint_dtype="float16",
    validation=20,
)

PRESETS: dict[str, tuple[str, TrainOptions]] = {
    "tiny": (
        "64 px splat maps, 256 px supervision: one GPU with 16 GB.",
        TrainOptions(model=MODELS["tiny"], data=DataOptions(image_size=256), batch_size=2),
    ),
    "small": (
        "64 px splat maps, wide U-Net, 256 px supervision: one GPU with 40 GB.",
        TrainOptions(model=MODELS["small"], data=DataOptions(image_size=256)),
    ),
    "big": (
        "The paper's network: 128 px splat maps, 512 px supervision, for GPUs with 80 GB.",
        TrainOptions(model=MODELS["big"]),
    ),
    "demo": (
        "Minutes on two CPU cores: what `bash train.sh` runs without data.",
        TrainOptions(
            data=DataOptions(
                root=Path("synthetic"),
                crop="person",
                image_size=128,
                min_input_views=2,
                input_frames=2,
                min_input_frames=1,
                target_frames=2,
                novel_frames=1,
                target_views=5,
                num_workers=1,
                verify=False,
            ),
            model=MODELS["demo-cpu"],
            loss=replace(_DEMO_LOSS, surface_distance=0.02),
            steps=400,
            lr=1.5e-3,
            log_every=10,
            image_every=100,
            eval_every=100,
            save_every=100,
        ),
    ),
    "demo-gpu": (
        "The shipped checkpoint, first part: about ten minutes on one large GPU, on crops of 256 px.",
        _DEMO_GPU,
    ),
    "demo-gpu-512": (
        "The shipped checkpoint, second part: a quarter of an hour at 512 px, from where demo-gpu came to.",
        replace(
            _DEMO_GPU,
            data=replace(_DEMO_GPU.data, root=Path("benchmark/train"), image_size=512, num_workers=24),
            validation_root=Path("benchmark/val"),
            init=_DEMO_GPU.workspace / "model.safetensors",
            workspace=_DEMO_GPU.workspace / "512",
            loss=replace(_DEMO_GPU.loss, ssim=0.1, lpips_size=256, lpips_crops=True, lpips_from=0.0),
            validation=8,
            steps=20_000,
            max_minutes=15.0,
            batch_size=3,
            lr=3e-4,
            warmup=0.05,
            image_every=2000,
            eval_every=2000,
            save_every=2000,
        ),
    ),
}
"""Presets of `main.py`: what each is for, and its options."""
