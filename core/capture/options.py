"""Options of preparing a capture."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from core.utils.device import DeviceName
from core.utils.ranges import Count, Positive, Range


@dataclass(frozen=True)
class PrepareOptions:
    """Preparation of a capture from images or a video."""

    frames: Count = 8
    """Number of frames to choose."""
    size: Annotated[int, Range(256, 16384)] = 1280
    """Longer side of the stored images in pixels, at most."""
    person: Count = 1
    """Number of the person where several are in view: 1 is the largest, over all frames."""
    focal: Positive | None = None
    """Focal length in pixels of the input images; by default from their metadata, else a guess."""
    height: Annotated[float, Range(0.4, 2.6)] | None = None
    """Body height in metres; sets the scale where cameras do not."""
    moving_camera: bool | None = None
    """True for a hand-held or moving camera; by default found from the background."""
    calibration: Path | None = None
    """Calibration file or folder; by default searched for in the input folder."""
    masks: Path | None = None
    """Folder of masks made by another tool, one per image."""
    mask_method: Literal["network", "rembg"] = "network"
    """Method of the masks: by the pose network and the image's edges, or by the package rembg."""
    keypoints: Path | None = None
    """Keypoints made by another tool: a folder of JSON files (OpenPose, DWPose, ...) or a COCO file."""
    fits: Path | None = None
    """Result of a body estimator (GVHMR, WHAM, TRAM, PromptHMR, 4D-Humans, EasyMocap, AMASS) to start from."""
    body: Path | None = None
    """Body model file; the shipped stand-in by default."""
    landmarker: Literal["auto", "full", "heavy"] = "auto"
    """Landmark network; auto takes the heavy one where scripts/get_pose_models.py --heavy has fetched it."""
    hands: bool = True
    """Also find the hands' landmarks."""
    device: DeviceName = "auto"
    """Device of the body fits."""

    def digest(self, *texts: str) -> str:
        """Text that changes when these options, the files that they name, or `texts` do."""
        values = {key: str(value) for key, value in asdict(self).items() if key != "device"}
        stats = []
        for path in (self.calibration, self.masks, self.keypoints, self.fits, self.body):
            if path is not None and path.exists():
                files = sorted(path.rglob("*")) if path.is_dir() else [path]
                stats += [f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files[:20_000]]
        content = json.dumps([values, stats, texts], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
