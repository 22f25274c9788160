"""Options of networks and training runs, and the presets: named values of `TrainOptions`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from core.utils.ranges import Count, CountOrZero, Decay, ImageSize, Positive, PositiveOrZero, Range, Seed, Share
from smpl_renderer.errors import InputError

Width = Annotated[int, Range(1, 2**14)]
"""Channels, and counts of alike parts; bounded, because checkpoints state them, and networks are built from that."""
Layers = Annotated[int, Range(1, 256)]
LayersOrZero = Annotated[int, Range(0, 256)]
MAX_LEVELS = 32
"""Levels of a U-Net."""
MAX_MAP_VALUES = 2**26
"""Values of the largest map of a U-Net for one image; 64 channels at 1024 x 1024 pixels."""
MAX_ATTENTION_SIZE = 128
"""Side of the largest map with attention, in pixels; its time grows with the fourth power."""
MAX_VERTEX_VALUES = 2**15
"""Values of the widest layer of the graph at one vertex, over its queries."""


@dataclass(frozen=True)
class UNetOptions:
    """The U-Net from images to splat maps, with the architecture of LGM (Tang et al., 2024)."""

    input_size: ImageSize = 256
    """Side of the square input images, in pixels."""
    splat_size: ImageSize = 128
    """Side of the square splat maps, in pixels. Every pixel becomes a Gaussian."""
    down_channels: tuple[Width, ...] = (64, 128, 256, 512, 1024, 1024)
    down_attention: tuple[bool, ...] = (False, False, False, True, True, True)
    mid_attention: bool = True
    up_channels: tuple[Width, ...] = (1024, 1024, 512, 256, 128)
    up_attention: tuple[bool, ...] = (True, True, True, False, False)
    layers_per_block: Layers = 2

    def check_combination(self, prefix: str = "model.unet.") -> None:
        """Check what channels, sizes and attention demand together (`core.utils.ranges.check_ranges`)."""
        for name, channels in (("down", self.down_channels), ("up", self.up_channels)):
            if not 1 <= len(channels) <= MAX_LEVELS:
                raise InputError(f"--{prefix}{name}-channels must have 1 to {MAX_LEVELS} values, got {len(channels)}")
        down = [(self.input_size >> level, width) for level, width in enumerate(self.down_channels)]
        up = [(self.splat_size >> level, width) for level, width in enumerate(reversed(self.up_channels))]
        attention = [*self.down_attention, self.mid_attention, *reversed(self.up_attention)]
        for (side, width), attends in zip([*down, down[-1], *up], attention):
            if width * side**2 > MAX_MAP_VALUES:
                raise InputError(
                    f"--{prefix}input-size and the channels give a map of {width} x {side} x {side} values, at most "
                    f"{MAX_MAP_VALUES} are possible; lower them"
                )
            if attends and side > MAX_ATTENTION_SIZE:
                raise InputError(
                    f"--{prefix}input-size and the levels give attention on a map of {side} x {side} pixels, at most "
                    f"{MAX_ATTENTION_SIZE} x {MAX_ATTENTION_SIZE} are possible; lower it, or choose levels without"
                )


@dataclass(frozen=True)
class GraphOptions:
    """The graph over the body's vertices (HGG, Sec. 3.3)."""

    features: Width = 128
    """Channels of a query; a multiple of `heads`."""
    queries: Width = 4
    """Queries per vertex. With the `vertex` head also the number of avatar Gaussians per vertex."""
    layers: LayersOrZero = 6
    """Number of layers, each with intra-node and inter-node attention."""
    heads: Width = 4
    """Attention heads."""
    ffn_factor: Layers = 4
    """Width of the feed-forward layers, relative to `features`."""
    neighbors: Layers = 18
    """Vertices in the neighbourhood of inter-node attention, the vertex itself included."""
    intra: bool = True
    """Intra-node attention: to the Gaussians whose nearest vertex this is."""
    inter: bool = True
    """Inter-node attention: to the neighbouring vertices."""
    patches: Annotated[int, Range(0, 2**12)] = 0
    """Patches of the body which every query attends to in each layer; 0: none (as in the paper). With the `vertex` head
    and image colour sampling, colours of what no image shows also come from the patches that are seen."""
    head: Literal["vertex", "residual"] = "vertex"
    """`vertex`: each query is decoded to one Gaussian of its vertex. `residual` (as in the paper): refine the Gaussians
    of a reference frame."""
    dropout: Decay = 0.0

    def check_combination(self, prefix: str = "model.graph.") -> None:
        """Check what the sizes demand together (`core.utils.ranges.check_ranges`)."""
        values = self.queries * self.features * max(self.ffn_factor, 3)
        if values > MAX_VERTEX_VALUES:
            raise InputError(
                f"--{prefix}queries, --{prefix}features and --{prefix}ffn-factor give {values} values at a vertex, at "
                f"most {MAX_VERTEX_VALUES} are possible; lower them"
            )


@dataclass(frozen=True)
class ModelOptions:
    """The whole network."""

    unet: UNetOptions = UNetOptions()
    graph: GraphOptions = GraphOptions()
    color_sampling: bool = True
    """Sample the colours of avatar Gaussians from the input images in which they are visible."""
    feedback: LayersOrZero = 0
    """Rounds of rendering feedback: the avatar is rendered, compared with the input images and updated."""


@dataclass(frozen=True)
class DataOptions:
    """Choice and loading of the images of a sample."""

    root: Path = Path("mvhuman_24")
    """Folder of captures, one per subject."""
    crop: Literal["center", "person"] = "center"
    """`center`: the largest centred square (as in the paper). `person`: a square around the subject."""
    image_size: ImageSize = 512
    """Side of the square target images, in pixels. Colours are sampled from input images of the same size."""
    input_views: tuple[str, ...] = ("22327091", "22327116", "22236236", "22327073")
    """Names of the input cameras (front, left, back, right). Cameras that a capture lacks are replaced by azimuth."""
    min_input_views: Count = 4
    """Minimum number of input views per training step; the others are dropped at random."""
    input_frames: Count = 4
    """Input frames per subject."""
    min_input_frames: Count = 4
    """Minimum number of input frames per training step; the others are dropped at random."""
    target_frames: Count = 4
    """Target frames per subject: input frames first, then `novel_frames` others."""
    novel_frames: CountOrZero = 0
    """Number of target frames that are not input frames: novel poses."""
    target_views: Count = 8
    """Target views per target frame: the input views first (as in the paper), then random others."""
    target_input_views: CountOrZero | None = None
    """Maximum number of input views among the target views in training, drawn at random; by default all. Fewer of them
    leave more supervision to novel views."""
    random_input_views: Share = 0.0
    """Share of training samples whose input views are random cameras instead of `input_views`."""
    fit_noise: PositiveOrZero = 0.0
    """Standard deviation of the noise on the fits of input frames in training, in radians; 0.02 is visible. The fits of
    target frames stay exact. Fits of real captures have errors, and a network trained on exact ones depends on them
    too much."""
    fit_bias: PositiveOrZero = 0.0
    """Errors of the fits that all input frames of a training sample share, as fits from one camera have: standard
    deviation of joints and lean in radians (`core.data.fit_noise.biased_fits`). Half of the samples have none."""
    color_gain: PositiveOrZero = 0.0
    """Standard deviation of the logarithm of each input image's brightness, and of a third of that per channel, in
    training: exposure and white balance differ between images. Their mean over the images of a sample stays."""
    single_image: Share = 0.0
    """Share of training steps with one input image, regardless of `min_input_frames` and `min_input_views`."""
    num_workers: CountOrZero = 4
    """Worker processes that load data, per training process; 0 loads in the training process itself."""
    body: Path | None = None
    """Body model file; by default it is found by the capture's fingerprint."""
    verify: bool = True
    """Compare fits with masks, once per subject and worker, and leave out cameras that were moved."""

    @property
    def observed_targets(self) -> int:
        """Number of target frames that are input frames (see `core.types.frames.Sample`)."""
        return self.target_frames - self.novel_frames

    def check_combination(self, prefix: str = "data.") -> None:
        """Check options that depend on each other (`core.utils.ranges.check_ranges`)."""
        if not self.input_views:
            raise InputError(f"--{prefix}input-views must name at least one camera")
        if not 0 <= self.observed_targets <= self.input_frames:
            raise InputError(
                f"--{prefix}target-frames must be at least --{prefix}novel-frames ({self.novel_frames}) and may exceed "
                f"it by at most --{prefix}input-frames ({self.input_frames}), got {self.target_frames}"
            )


@dataclass(frozen=True)
class LossOptions:
    """Weights of the loss terms; the defaults are the paper's."""

    rgb: PositiveOrZero = 1.0
    """Mean squared error of the colours."""
    alpha: PositiveOrZero = 1.0
    """Mean squared error of the silhouettes."""
    lpips: PositiveOrZero = 1.0
    """LPIPS (VGG). Needs `python scripts/get_lpips.py` once; without its weights the term is off, with a message."""
    lpips_size: ImageSize = 256
    """Size to which larger images are reduced for LPIPS, in pixels."""
    lpips_crops: bool = False
    """Compare one crop of `lpips_size` per image at full resolution, instead of reducing larger images."""
    lpips_from: Share = 0.0
    """Share of the run after which the LPIPS term is added. Early in training it costs time and changes little."""
    ssim: PositiveOrZero = 0.0
    """1 - SSIM."""
    surface_distance: PositiveOrZero = 0.4
    """Mean of (10 d)^3, with d the distance of a frame Gaussian to its nearest vertex, in metres."""


@dataclass(frozen=True)
class TrainOptions:
    """One training run."""

    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    loss: LossOptions = LossOptions()
    stage: Literal["frame", "graph", "joint"] = "joint"
    """`frame`: the U-Net alone, on single frames. `graph`: the graph, with the U-Net frozen. `joint`: everything."""
    workspace: Path = Path("workspace")
    """Folder for checkpoints, logs and run states."""
    init: Path | None = None
    """Checkpoint to start from (for `graph`: one of stage `frame`)."""
    connectivity: Path | None = None
    """Mesh neighbourhoods written by `vertex_connectivity.py`; by default they are computed, in about a second."""
    resume: str = "none"
    """`auto`: resume from the newest run state in the workspace, if there is one. Or the path of a run state."""
    backend: str = "auto"
    """Rasterizer: `auto` (`triton` on CUDA, else `numba`), `torch`, `numba`, `triton`, `gsplat` or
    `diff_gaussian_rasterization`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """`auto`: bf16 on CUDA, no on a CPU, where bf16 is slower than float32."""
    compile: bool = False
    """Compile the U-Net (CUDA): minutes at the start, faster steps afterwards."""
    cuda_graphs: bool = True
    """Replay CUDA graphs of the U-Net and of the graph: faster steps, but the graphs hold memory."""
    attention: Literal["sdpa", "xformers"] = "sdpa"
    """Kernels of the U-Net's attention on CUDA: PyTorch's, or those of `xformers` where it is installed."""
    nearest: Literal["auto", "torch_cluster", "pytorch3d"] = "auto"
    """Search for the nearest vertex of each Gaussian: built in, or by one of these packages where it is installed."""
    checkpoint_unet: bool = False
    """Activation checkpointing: keep only the inputs of the U-Net's layers for the backward pass and recompute the
    rest. Less memory, about a third more time."""
    seed: Seed = 0
    steps: Count = 30_000
    """Optimizer steps."""
    max_minutes: Positive | None = None
    """Time limit. The schedule follows the steps or the time, whichever is further. Meant for a leased GPU: such a run
    is not repeatable, because its learning rates depend on the machine's speed."""
    batch_size: Count = 1
    """Subjects per device and step."""
    accumulate: Count = 1
    """Gradient accumulation steps."""
    lr: Positive = 4e-4
    """Peak learning rate of the one-cycle schedule."""
    warmup: Share = 0.05
    """Share of the run in which the learning rate rises."""
    weight_decay: PositiveOrZero = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    clip: Positive = 1.0
    """Maximum norm of the gradient; larger gradients are scaled down to it."""
    max_bad_steps: CountOrZero = 20
    """Maximum number of skipped steps. A step is skipped if its loss or gradient is not finite; more end the run."""
    frame_weight: PositiveOrZero = 0.0
    """Weight of the rendering loss of the single-frame Gaussians in stage `joint`."""
    log_every: Count = 20
    """Steps between log lines."""
    image_every: Count = 500
    """Steps between preview images."""
    eval_every: Count = 1000
    """Steps between evaluations of the held-out subjects."""
    save_every: Count = 1000
    """Steps between run states and checkpoints."""
    keep: Count = 2
    """Number of run states to keep."""
    checkpoint_dtype: Literal["float32", "float16"] = "float32"
    """Precision of `model.safetensors`; run states are always exact."""
    validation: CountOrZero = 2
    """Number of held-out subjects: the last ones of the list, or the first ones of `validation_root`."""
    validation_root: Path | None = None
    """Folder of captures to hold out; all of `data.root` is then used for training."""


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
        "Minutes on two CPU cores: the preset of `bash train.sh` without data.",
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
        "The shipped checkpoint, second part: a quarter of an hour at 512 px, starting from demo-gpu.",
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
"""Presets of `main.py` by name: a description and the options."""
