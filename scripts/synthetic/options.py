"""Options of synthetic captures, and the record of them that captures and benchmarks store."""

import json
from dataclasses import asdict, dataclass

from scripts.synthetic.layout import FORMATS
from scripts.synthetic.rigs import RIGS
from scripts.synthetic.turn import TURN_FRAMES
from smpl_renderer.errors import InputError

GENERATOR_VERSION = "2"
"""Version of the generator: changes whenever the same seed gives other images. Stored in captures and checkpoints."""

PAPER_FRAMES = (55, 155, 305, 455, 505, 705, 755, 805, 855, 905)
"""The ten frames of the paper's evaluation: eight observed ones and, last, two novel poses."""
FIRST_SUBJECT = 209_000
"""Start of the ids of synthetic people, outside of MVHumanNet's range (100001-104780, 200001-204367)."""

BACKGROUNDS = ("studio", "black", "plain", "clutter")
"""`studio`: a wall close to the subject, black farther away, as in MVHumanNet's released images. `black`: nothing.
`plain`: an empty room. `clutter`: a furnished room. Rooms fill the image."""
_STORED_BACKGROUNDS = {"studio": True, "black": False}
"""Backgrounds that records store as truth values, because records are older than rooms."""


@dataclass(frozen=True)
class CaptureOptions:
    """Options of captures; equal options and seeds give equal captures."""

    seed: int = 0
    split: str = "train"
    """Subjects of different splits are drawn from independent streams, whatever the seeds."""
    rig: str = "24"
    """`24`: one ring of 16 cameras; `48`: three rings of 16; `phone`: one camera, in front of which the subject turns
    around once."""
    cameras: int | None = None
    """Number of cameras if fewer than the rig has: the four input views first."""
    frames: tuple[int, ...] = PAPER_FRAMES
    """Frame ids, multiples of 5."""
    width: int = 612
    """Width of the image files in pixels. MVHumanNet's calibration is stated for twice the size of the files."""
    height: int = 512
    samples: int = 2
    """Samples along each side of a pixel."""
    quality: int = 92
    """JPEG quality."""
    compact: bool = False
    """Smaller files of images and masks, at more time."""
    camera_noise: bool = True
    """Exposure, white balance, tone curve, blur and noise of each camera; otherwise all cameras are ideal."""
    soft_masks: bool = True
    """Masks with the wide, uneven edges of matting; otherwise masks are the exact coverage."""
    fit_noise: float = 0.0
    """Standard deviation of the noise on the stored fits, in radians; see `fits.perturb_fits`."""
    smpl_param: bool = True
    """Write `smpl_param/`."""
    points: bool = False
    """Write `optimized_smpl_points/*.ply` beside the `.json`."""
    holes: bool = False
    """Leave out and damage what is missing or damaged in real captures: fits, a camera, the size of a mask."""
    background: str = "studio"
    """One of `BACKGROUNDS`."""
    format: str = "mvhumannet"
    """One of `layout.FORMATS`. `smpl_param`, `points` and `holes` apply to `mvhumannet` only."""

    def __post_init__(self) -> None:
        """Raise InputError for options that no capture can be made with."""
        if not self.frames or any(frame < 5 or frame % 5 for frame in self.frames):
            raise InputError(f"frames {_listed(self.frames)}: frame ids must be positive multiples of 5")
        if len(set(self.frames)) < len(self.frames):
            raise InputError(f"frames {_listed(self.frames)}: frame ids must not repeat")
        if self.rig not in RIGS:
            raise InputError(f"rig {self.rig}: must be one of {', '.join(RIGS)}")
        if self.format not in FORMATS:
            raise InputError(f"format {self.format}: must be one of {', '.join(FORMATS)}")
        if self.format == "capture" and self.holes:
            raise InputError("holes are written in the format mvhumannet only")
        if self.background not in BACKGROUNDS:
            raise InputError(f"background {self.background}: must be one of {', '.join(BACKGROUNDS)}")
        if self.samples < 1 or (self.cameras is not None and self.cameras < 1):
            raise InputError(f"samples {self.samples} and cameras {self.cameras}: must be at least 1")
        if min(self.width, self.height) < 16:
            raise InputError(f"width {self.width} and height {self.height}: must be at least 16 pixels")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality {self.quality}: must be from 1 to 100")
        if not 0 <= self.fit_noise < 1:
            raise InputError(f"fit_noise {self.fit_noise}: must be from 0 to 1 (radians; 0.02 is visible)")

    def record(self) -> dict:
        """The options as JSON values, equal to the records of earlier versions where the options are equal."""
        content = json.loads(json.dumps(asdict(self)))
        content["background"] = _STORED_BACKGROUNDS.get(self.background, self.background)
        if self.format == "mvhumannet":
            del content["format"]
        return content

    @staticmethod
    def from_record(content: dict) -> "CaptureOptions":
        """The options of a record; options that it lacks have their defaults.

        Raises:
            TypeError: If the record has an unknown option.
        """
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        stored = {value: name for name, value in _STORED_BACKGROUNDS.items()}
        if isinstance(values.get("background"), bool):
            values["background"] = stored[values["background"]]
        return CaptureOptions(**values)


def _listed(values: tuple) -> str:
    return " ".join(map(str, values)) or "()"


def default_frames(count: int, rig: str = "24") -> tuple[int, ...]:
    """Frame ids of a capture with a number of frames.

    For rings: the paper's for ten frames, otherwise every 50th id from 5 on. For `phone`: evenly spread over one turn.
    """
    if rig == "phone":
        step = 5 * max(1, TURN_FRAMES // 5 // count)
        return tuple(5 + step * i for i in range(count))
    return PAPER_FRAMES if count == len(PAPER_FRAMES) else tuple(5 + 50 * i for i in range(count))
