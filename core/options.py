"""Everything that can be set about a run, and the presets: values of these options under a name."""

from dataclasses import dataclass, field, replace
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
    """`vertex`: every query decodes one Gaussian on its vertex. `residual`: refine the Gaussians of a reference frame (the paper's)."""
    dropout: float = 0.0


@dataclass(frozen=True)
class ModelOptions:
    """The whole network."""

    unet: UNetOptions = UNetOptions()
    graph: GraphOptions = GraphOptions()
    second_look: bool = True
    """Colour avatar Gaussians from the input pixels that see them."""


@dataclass(frozen=True)
class DataOptions:
    """Which pictures are read, and how."""

    root: Path = Path("mvhuman_24")
    """Folder of captures (subjects) in MVHumanNet's layout."""
    crop: Literal["center", "person"] = "center"
    """`center`: the largest centred square (the paper's). `person`: a square around the person's mask or projected body."""
    image_size: int = 512
    """Pixels of the square pictures that supervise and that the second look reads."""
    input_views: tuple[str, ...] = ("22327091", "22327116", "22236236", "22327073")
    """Camera names of the input views (front, left, back, right). Where a capture lacks them, cameras are chosen by azimuth."""
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
    random_input_views: float = 0.0
    """Share of training samples whose input views are random cameras instead of `input_views`."""
    num_workers: int = 4
    body: Path | None = None
    """A body model file; by default it is found by the capture's fingerprint."""


@dataclass(frozen=True)
class LossOptions:
    """Weights of the losses; the defaults are the paper's."""

    rgb: float = 1.0
    alpha: float = 1.0
    lpips: float = 1.0
    lpips_size: int = 256
    ssim: float = 0.0
    tie: float = 0.4
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
    resume: str = "none"
    """`auto`: go on from the newest run state in the workspace, if any. Or the path of a run state."""
    backend: str = "auto"
    """Rasterizer: `auto`, `torch`, `gsplat`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    seed: int = 0
    steps: int = 30_000
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
    frame_weight: float = 0.0
    """In stage `joint`: weight of the rendering loss of the single-frame Gaussians."""
    log_every: int = 20
    image_every: int = 500
    eval_every: int = 1000
    save_every: int = 1000
    keep: int = 2
    """Run states that are kept."""
    validation: int = 2
    """Subjects at the end of the list that are held out."""


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
    input_size=128,
    splat_size=64,
    down_channels=(32, 64, 128, 192),
    down_attention=(False, False, True, True),
    up_channels=(192, 128, 96),
    up_attention=(True, True, False),
    layers_per_block=1,
)

MODELS: dict[str, ModelOptions] = {
    "tiny": ModelOptions(unet=TINY_UNET),
    "small": ModelOptions(unet=SMALL_UNET),
    "big": ModelOptions(unet=BIG_UNET),
    "demo": ModelOptions(unet=DEMO_UNET, graph=GraphOptions(features=64, layers=3)),
}
