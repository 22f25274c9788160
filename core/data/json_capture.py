"""A capture described by `capture.json` (`core.data.capture_json`)."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from core.data.calibration import CalibratedCamera
from core.data.capture import Capture, Findings
from core.data.capture_json import CAPTURE_FILE, CaptureRecord, FrameRecord, read_capture_json
from core.data.crops import ImageFiles
from core.data.fits import parse_fit, read_fit
from core.data.input_files import check_inside
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams


class JsonCapture(Capture):
    """One subject, described by `capture.json` in its folder."""

    calibration_files = f"K, T_cam_world (world to camera, in metres) and `up` in {CAPTURE_FILE}"
    is_up_stated = True

    def __init__(self, path: Path, ready: tuple[str, int] | None = None, findings: Findings | None = None):
        super().__init__(path, ready, findings)
        self._record: CaptureRecord = read_capture_json(self.path)
        self._frames: dict[int, FrameRecord] = {frame.id: frame for frame in self._record.frames}
        if self.ready is None and not self._image_cameras():
            self._only_ready_crops()
            raise InputError(f"{self.path / CAPTURE_FILE}: no frame lists an image; list the images in `frames`")

    @property
    def body_fingerprint(self) -> str | None:
        return self._record.body_fingerprint

    @property
    def body_name(self) -> str | None:
        return self._record.body_name

    def time_of(self, frame: int) -> float | None:
        return self._frames[frame].time if frame in self._frames else None

    @property
    def is_checked(self) -> bool:
        return self._record.is_checked

    @property
    def up(self) -> str:
        return self._record.up

    @cached_property
    def fits(self) -> dict[int, str | dict[str, Any]]:
        return {number: frame.fit for number, frame in self._frames.items() if frame.fit is not None}

    @cached_property
    def _cameras_with_images(self) -> list[str]:
        used = {name for frame in self._frames.values() for name in frame.images}
        return [name for name in sorted(self._record.cameras) if name in used]

    def _image_cameras(self) -> list[str]:
        return self._cameras_with_images

    def _camera_problem(self, name: str) -> str:
        return "has no images" if name in self._record.cameras else f"is not in {CAPTURE_FILE}"

    def _file_camera(self, name: str) -> CalibratedCamera:
        camera = self._record.cameras[name]
        viewmat, K = torch.from_numpy(camera.T_cam_world.copy()), torch.from_numpy(camera.K.copy())
        return CalibratedCamera(viewmat, K, camera.width, camera.height, camera.lens)

    def _list_files(self, camera: str) -> dict[int, ImageFiles]:
        files = {}
        for number, frame in sorted(self._frames.items()):
            if camera in frame.images:
                mask = frame.masks.get(camera)
                files[number] = ImageFiles(self.path / frame.images[camera], None if mask is None else self.path / mask)
        return files

    def files(self, camera: str, frame: int) -> ImageFiles:
        files = super().files(camera, frame)
        for path in files:
            check_inside(self.path, path, f"{self.path / CAPTURE_FILE}: frame {frame}")
        return files

    def _read_fit(self, frame: int, body: BodyModel) -> BodyParams:
        fit = self.fits[frame]
        where = self.path / CAPTURE_FILE
        if isinstance(fit, dict):
            return parse_fit(fit, where, body)
        return read_fit(check_inside(self.path, self.path / fit, f"{where}: frame {frame}"), body)

    def _missing_files(self, camera: str, frame: int) -> str:
        if frame not in self._frames:
            return f"{CAPTURE_FILE} has no frame with the id {frame}; choose others"
        return f"{CAPTURE_FILE} lists no image of it; choose other frames, or add it"

    def _missing_fit(self, frame: int) -> str:
        return f"{CAPTURE_FILE} has no `fit` for it; choose other frames, or fit the body to this one"

    def nothing_usable(self) -> str:
        if not self.fits:
            return f"no frame of {CAPTURE_FILE} has a `fit`; fit the body to some frames"
        return f"no frame of {CAPTURE_FILE} has both images and a `fit`; fit the body to frames with images"
