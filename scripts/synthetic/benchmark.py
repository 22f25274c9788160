"""The synthetic benchmark: people and images defined by a file, and checks against it.

The file (`configs/benchmark.json`) contains the options of the captures, the people of each split, a checksum of all
random draws for them, and the mean colour and coverage of a few images. The checksum is equal on all machines; images
of different machines are equal in their means, but not to the bit.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.synthetic.layout import STAMP, image_files
from scripts.synthetic.options import FIRST_SUBJECT, GENERATOR_VERSION, CaptureOptions
from scripts.synthetic.people import sample_person
from scripts.synthetic.seeding import digest
from scripts.synthetic.sets import CaptureSet
from scripts.synthetic.staging import capture_rig, draw_images, stage
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import CONTENT_ERRORS, load_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

TOLERANCE = 1 / 255
"""Largest difference between the means of images drawn on different machines."""
MEASURED_PEOPLE = 3
"""People of each split of whom images are compared."""


@dataclass(frozen=True)
class Means:
    """Mean colour and coverage of an image."""

    color: tuple[float, float, float]
    """Mean colour of the person (weighted by the mask), in [0, 1]."""
    coverage: float
    """Mean of the mask."""

    def agrees(self, other: "Means") -> bool:
        """True if both can be means of one image drawn on different machines."""
        return (
            max(abs(a - b) for a, b in zip((*self.color, self.coverage), (*other.color, other.coverage))) <= TOLERANCE
        )


@dataclass(frozen=True)
class Split:
    """The people of one split: `subjects` ids from `first_subject` on."""

    first_subject: int
    subjects: int
    checksum: str = ""
    images: dict[str, Means] = dataclasses.field(default_factory=dict)
    """Means of some images by `subject/camera/frame`."""

    @property
    def indices(self) -> dict[str, int]:
        """Index of the person by subject id."""
        return {str(self.first_subject + i): self.first_subject - FIRST_SUBJECT + i for i in range(self.subjects)}


@dataclass(frozen=True)
class Benchmark:
    """The content of `configs/benchmark.json`."""

    generator: str
    body: str
    """Fingerprint of the body model."""
    capture: CaptureOptions
    splits: dict[str, Split]

    def options(self, split: str) -> CaptureOptions:
        """Options of the captures of a split."""
        return dataclasses.replace(self.capture, split=split)

    def sets(self, root: Path, splits: list[str]) -> list[CaptureSet]:
        """The sets of captures of some splits."""
        return [CaptureSet(root / name, self.splits[name].indices, self.options(name)) for name in splits]


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark's file.

    Raises:
        InputError: If it cannot be read, or contains unknown options.
    """
    try:
        content = load_json(path)
        splits = {}
        for name, split in content["splits"].items():
            images = {key: Means(tuple(m["color"]), m["coverage"]) for key, m in split.get("images", {}).items()}
            splits[name] = Split(**{**split, "images": images})
        return Benchmark(content["generator"], content["body"], CaptureOptions.from_record(content["capture"]), splits)
    except CONTENT_ERRORS as error:  # InputError included
        raise InputError(f"{path}: not a benchmark of this version ({error}); use configs/benchmark.json") from error


def write_benchmark(path: Path, benchmark: Benchmark) -> None:
    """Write a benchmark's file."""
    content = dataclasses.asdict(benchmark) | {"capture": benchmark.capture.record()}
    del content["capture"]["split"]
    with atomic_path(path) as temporary:
        # Lists of numbers on one line.
        text = re.sub(r"\[[^\[\]{}]*\]", lambda row: " ".join(row[0].split()), json.dumps(content, indent=1))
        temporary.write_text(text.replace("[ ", "[").replace(" ]", "]") + "\n")


def scene_checksum(split: Split, options: CaptureOptions, body: BodyModel) -> str:
    """Hash of everything that the images of a split are drawn from."""
    scenes = []
    for index in split.indices.values():
        rig = capture_rig(index, options)
        numbers = [rig.rotations.tolist(), rig.translations.tolist(), rig.focal, rig.camera_scale, rig.front_azimuth]
        person = sample_person(body, options.seed, options.split, index)
        scenes.append([person.checksum(), rig.names, numbers])
    return digest([GENERATOR_VERSION, body.fingerprint, options.record(), scenes])


def check_parameters(benchmark: Benchmark, splits: list[str], body: BodyModel) -> None:
    """Check, without drawing, that this version generates the benchmark's people and cameras.

    Raises:
        InputError: If it does not.
    """
    if (benchmark.generator, benchmark.body) != (GENERATOR_VERSION, body.fingerprint):
        raise InputError(
            f"the benchmark is for generator {benchmark.generator} and body {benchmark.body}, this is generator "
            f"{GENERATOR_VERSION} and body {body.fingerprint}; use the version of this program that wrote the file"
        )
    for name in splits:
        if scene_checksum(benchmark.splits[name], benchmark.options(name), body) != benchmark.splits[name].checksum:
            raise InputError(
                f"split {name}: people or cameras are not the benchmark's (checksums differ); use the version of this "
                "program that wrote the file, or --update the file for a new benchmark"
            )


def check_images(benchmark: Benchmark, splits: list[str], root: Path) -> int:
    """Compare images on disk with the benchmark's means; missing captures are left out.

    Returns:
        The number of images compared.
    Raises:
        InputError: If one differs by more than `TOLERANCE`, or cannot be read.
    """
    compared = 0
    for name in splits:
        for key, expected in benchmark.splits[name].images.items():
            subject, camera, frame = key.split("/")
            folder = root / name / subject
            if not (folder / STAMP).is_file():
                continue
            try:
                actual = image_means(*(_pixels(file) for file in image_files(folder, camera, int(frame))))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{folder}: image {key} cannot be read ({error}); write the benchmark to another --out"
                ) from error
            if not actual.agrees(expected):
                difference = f"image {key} has means {actual}, expected {expected}"
                raise InputError(f"{folder}: {difference}; write the benchmark to another --out")
            compared += 1
    return compared


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path, formats=("JPEG", "PNG")) as image:
        return np.asarray(image)


def image_means(color: np.ndarray, mask: np.ndarray) -> Means:
    """Means of an image [H, W, 3] and its mask [H, W], both 8-bit."""
    weights = mask.astype(np.float64) / 255
    mean = (color.astype(np.float64) / 255 * weights[..., None]).sum((0, 1)) / max(weights.sum(), 1e-9)
    return Means(tuple(round(float(x), 5) for x in mean), round(float(weights.mean()), 5))


def updated(benchmark: Benchmark, body: BodyModel, device: str = "cpu") -> Benchmark:
    """The benchmark with the checksums and the image means of this version of the program."""
    splits = {}
    for name, split in benchmark.splits.items():
        options = benchmark.options(name)
        checksum = scene_checksum(split, options, body)
        splits[name] = dataclasses.replace(split, checksum=checksum, images=_measured(split, options, body, device))
    return Benchmark(GENERATOR_VERSION, body.fingerprint, benchmark.capture, splits)


def _measured(split: Split, options: CaptureOptions, body: BodyModel, device: str) -> dict[str, Means]:
    """Means of images of the first, the middle and the last person, in the first frame and camera and in the last."""
    subjects = list(split.indices.items())
    positions = sorted({i * (len(subjects) - 1) // (MEASURED_PEOPLE - 1) for i in range(MEASURED_PEOPLE)})
    means = {}
    for subject, index in (subjects[i] for i in positions):
        staged = stage(index, options, body, device)
        for frame, camera in {options.frames[0]: staged.rig.names[0], options.frames[-1]: staged.rig.names[-1]}.items():
            seen = dataclasses.replace(staged, rig=staged.rig.subset((camera,)))
            ((_, (color,), (mask,)),) = draw_images(seen, frame, options)
            means[f"{subject}/{camera}/{frame:04d}"] = image_means(color, mask)
    return means
