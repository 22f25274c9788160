"""The synthetic benchmark: people and pictures fixed by a file, and checks that they are what it says.

The file (`configs/benchmark.json`) holds how captures are made, which people a split has, a checksum of everything that
is drawn from seeds for them, and the mean colour and the coverage of a handful of pictures. The checksum must agree
everywhere; pictures of different machines agree in their means, not in every bit.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.synthetic.capture import capture_rig, draw_pictures, stage
from scripts.synthetic.layout import STAMP, picture_files
from scripts.synthetic.options import FIRST_SUBJECT, GENERATOR_VERSION, CaptureOptions
from scripts.synthetic.people import sample_person
from scripts.synthetic.seeding import digest
from scripts.synthetic.sets import CaptureSet
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

TOLERANCE = 1 / 255
"""Between the means of pictures made on different machines."""
MEASURED_PEOPLE = 3


@dataclass(frozen=True)
class Means:
    """What a picture looks like on the whole."""

    color: tuple[float, float, float]
    """Mean over the person (weighted by the mask), in [0, 1]."""
    coverage: float
    """Mean of the mask."""

    def agrees(self, other: "Means") -> bool:
        """Whether both may be of the same picture, drawn on different machines."""
        return (
            max(abs(a - b) for a, b in zip((*self.color, self.coverage), (*other.color, other.coverage))) <= TOLERANCE
        )


@dataclass(frozen=True)
class Split:
    """People of one split: `subjects` ids from `first_subject` on."""

    first_subject: int
    subjects: int
    checksum: str = ""
    pictures: dict[str, Means] = dataclasses.field(default_factory=dict)
    """By `subject/camera/frame`."""

    @property
    def indices(self) -> dict[str, int]:
        """Subject id -> index of the person."""
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
        """How the captures of a split are made."""
        return dataclasses.replace(self.capture, split=split)

    def sets(self, root: Path, splits: list[str]) -> list[CaptureSet]:
        """The folders of some splits."""
        return [CaptureSet(root / name, self.splits[name].indices, self.options(name)) for name in splits]


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark's file.

    Raises:
        InputError: If it cannot be read, or names what this version does not know.
    """
    try:
        content = json.loads(path.read_text())
        splits = {}
        for name, split in content["splits"].items():
            pictures = {key: Means(tuple(m["color"]), m["coverage"]) for key, m in split.get("pictures", {}).items()}
            splits[name] = Split(**{**split, "pictures": pictures})
        return Benchmark(content["generator"], content["body"], CaptureOptions.from_record(content["capture"]), splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no benchmark of this version ({error}); take configs/benchmark.json") from error


def write_benchmark(path: Path, benchmark: Benchmark) -> None:
    """Write a benchmark's file."""
    content = dataclasses.asdict(benchmark) | {"capture": benchmark.capture.record()}
    del content["capture"]["split"]
    with atomic_path(path) as temporary:
        # Rows of numbers stay on their line.
        text = re.sub(r"\[[^\[\]{}]*\]", lambda row: " ".join(row[0].split()), json.dumps(content, indent=1))
        temporary.write_text(text.replace("[ ", "[").replace(" ]", "]") + "\n")


def scene_checksum(split: Split, options: CaptureOptions, body: BodyModel) -> str:
    """Sixteen digits that change when anything does that a split's pictures are drawn from."""
    scenes = []
    for index in split.indices.values():
        rig = capture_rig(index, options)
        numbers = [rig.rotations.tolist(), rig.translations.tolist(), rig.focal, rig.camera_scale, rig.front_azimuth]
        person = sample_person(body, options.seed, options.split, index)
        scenes.append([person.checksum(), rig.names, numbers])
    return digest([GENERATOR_VERSION, body.fingerprint, options.record(), scenes])


def check_parameters(benchmark: Benchmark, splits: list[str], body: BodyModel) -> None:
    """Make sure that this program draws the benchmark's people; draws nothing.

    Raises:
        InputError: If it does not.
    """
    if (benchmark.generator, benchmark.body) != (GENERATOR_VERSION, body.fingerprint):
        raise InputError(
            f"the benchmark is for generator {benchmark.generator} and body {benchmark.body}, this is generator "
            f"{GENERATOR_VERSION} and body {body.fingerprint}; take the version of this program that the file came with"
        )
    for name in splits:
        if scene_checksum(benchmark.splits[name], benchmark.options(name), body) != benchmark.splits[name].checksum:
            raise InputError(
                f"split {name}: people or cameras are not the benchmark's (checksums differ); take the version of this "
                "program that the file came with, or --update the file for a new benchmark"
            )


def check_pictures(benchmark: Benchmark, splits: list[str], root: Path) -> int:
    """Compare pictures on disk with the benchmark's means; those of captures that are not there are left out.

    Returns:
        How many were compared.
    Raises:
        InputError: If one differs by more than `TOLERANCE`, or cannot be read.
    """
    compared = 0
    for name in splits:
        for key, expected in benchmark.splits[name].pictures.items():
            subject, camera, frame = key.split("/")
            folder = root / name / subject
            if not (folder / STAMP).is_file():
                continue
            try:
                actual = picture_means(*(_pixels(file) for file in picture_files(folder, camera, int(frame))))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{folder}: picture {key} cannot be read ({error}); remove the folder and make it again"
                ) from error
            if not actual.agrees(expected):
                raise InputError(
                    f"{folder}: picture {key} has means {actual}, not {expected}; remove the folder and make it again"
                )
            compared += 1
    return compared


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def picture_means(color: np.ndarray, mask: np.ndarray) -> Means:
    """Measure a picture [H, W, 3] and its mask [H, W], both 8-bit."""
    weights = mask.astype(np.float64) / 255
    mean = (color.astype(np.float64) / 255 * weights[..., None]).sum((0, 1)) / max(weights.sum(), 1e-9)
    return Means(tuple(round(float(x), 5) for x in mean), round(float(weights.mean()), 5))


def updated(benchmark: Benchmark, body: BodyModel, device: str = "cpu") -> Benchmark:
    """The benchmark as this version of the program makes it: checksums, and means of a handful of drawn pictures."""
    splits = {}
    for name, split in benchmark.splits.items():
        options = benchmark.options(name)
        checksum = scene_checksum(split, options, body)
        splits[name] = dataclasses.replace(split, checksum=checksum, pictures=_measured(split, options, body, device))
    return Benchmark(GENERATOR_VERSION, body.fingerprint, benchmark.capture, splits)


def _measured(split: Split, options: CaptureOptions, body: BodyModel, device: str) -> dict[str, Means]:
    """Means of the first, a middle and the last person, each in the first and the last moment and camera."""
    subjects = list(split.indices.items())
    positions = sorted({i * (len(subjects) - 1) // (MEASURED_PEOPLE - 1) for i in range(MEASURED_PEOPLE)})
    means = {}
    for subject, index in (subjects[i] for i in positions):
        staged = stage(index, options, body, device)
        for frame, camera in {options.frames[0]: staged.rig.names[0], options.frames[-1]: staged.rig.names[-1]}.items():
            seen = dataclasses.replace(staged, rig=staged.rig.subset((camera,)))
            ((_, (color,), (mask,)),) = draw_pictures(seen, frame, options)
            means[f"{subject}/{camera}/{frame:04d}"] = picture_means(color, mask)
    return means
