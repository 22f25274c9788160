"""Second pass over the input: chosen frames are read at full size, undistorted and stored; landmarks and masks."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from core.capture.cameras import CameraSet, StoredCamera
from core.capture.frame_choice import ChosenFrame, frame_stem
from core.capture.image_source import ImageSource
from core.capture.keypoints import KeypointFolder
from core.capture.landmarks import Landmarks, replace_points
from core.capture.masks import MaskFolder, RembgMasks, near_person, person_mask
from core.capture.networks import RGB, Person, PoseReader
from core.capture.options import PrepareOptions
from core.capture.people import choose_by_clothes, choose_in_rig, nearest_person
from core.capture.sources import InputFiles
from core.capture.tracking import clothes_colors
from core.capture.undistort import Undistortion
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """Image of one camera in one frame, with landmarks and mask."""

    image: str
    """Path of the stored image, relative to the capture."""
    landmarks: Landmarks | None
    """Landmarks in pixels of the stored image; None if the person is not in view."""
    mask: np.ndarray | None
    """Mask of the person, [H, W] of uint8."""
    brightness: float = 0.0
    """Mean luminance of the person, 0..1."""


Views = list[list[View]]
"""Views of a capture, by frame, then by camera."""


def observe(
    files: InputFiles,
    frames: tuple[ChosenFrame, ...],
    cameras: CameraSet,
    reader: PoseReader | None,
    options: PrepareOptions,
    folder: Path,
) -> Views:
    """Store the images of all frames in `folder`, find the person in each and make masks."""
    people = _read_images(files, frames, cameras, reader, options, folder)
    choice = _choose_people(people, frames, cameras, options)
    return _make_views(people, choice, files, frames, cameras, options, folder)


def image_name(camera: str, frame: ChosenFrame) -> str:
    """Path of a stored image relative to the capture."""
    return f"images/{camera}/{frame.id:04d}.jpg"


def load_stored(folder: Path, name: str) -> RGB:
    """A stored image."""
    with Image.open(folder / name, formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))


def _read_images(files, frames, cameras, reader, options, folder) -> list[list[list[Person]]]:
    """People of every frame and camera; images are written as they come."""
    people: list[list[list[Person]]] = [[[] for _ in cameras.cameras] for _ in frames]
    total = len(frames) * len(cameras.cameras)
    with tqdm(total=total, desc="landmarks", unit="image") as bar:
        for c, (source, camera) in enumerate(zip(files.sources, cameras.cameras)):
            (folder / "images" / camera.name).mkdir(parents=True, exist_ok=True)
            undistortion = _undistortion(camera)
            given = _GivenKeypoints(source, camera, options) if options.keypoints is not None else None
            # A few at a time: a rig's images do not fit into memory.
            for start in range(0, len(frames), 8):
                part = frames[start : start + 8]
                images = source.read([frame.keys[c] for frame in part], options.size)
                for offset, frame in enumerate(part):
                    image = images.get(frame.keys[c])
                    if image is None:
                        raise InputError(f"{source.path}: frame {source.label(frame.keys[c])} was not decoded")
                    image = _exact_size(image, camera)
                    if undistortion is not None:
                        image = undistortion.image(image)
                    Image.fromarray(image).save(folder / image_name(camera.name, frame), quality=95, subsampling=0)
                    found = _people_in(image, frame, c, source, camera, reader, given)
                    people[start + offset][c] = [_compact(person, image) for person in found]
                    bar.update()
    return people


def _exact_size(image: RGB, camera: StoredCamera) -> RGB:
    if image.shape[:2] == (camera.height, camera.width):
        return image
    return np.asarray(Image.fromarray(image).resize((camera.width, camera.height), Image.LANCZOS))


def _undistortion(camera: StoredCamera) -> Undistortion | None:
    return None if camera.lens is None else Undistortion(camera.K, camera.lens, camera.width, camera.height)


def _people_in(image, frame, c, source, camera, reader, given) -> list[Person]:
    found = [] if reader is None else reader.people(image)
    if given is not None:
        return given.people(frame.keys[c], found)
    if c == 0 and frame.guide is not None:
        guide = guide_at(frame, camera)
        if nearest_person([p.landmarks for p in found], guide) is None:
            followed = reader.follow(image, guide, details=True)
            found += [] if followed is None else [followed]
    return found


def _compact(person: Person, image: RGB) -> Person:
    """Reduce a person to what the choice of one needs: masks as 8-bit integers, colours of the clothes."""
    mask = None if person.mask is None else (person.mask * 255 + 0.5).astype(np.uint8)
    return Person(person.landmarks, mask, clothes_colors(image, person.landmarks))


class _GivenKeypoints:
    """Keypoints by other tools, brought to the stored images; masks and 3D landmarks stay the network's."""

    def __init__(self, source: ImageSource, camera: StoredCamera, options: PrepareOptions):
        self._folder = KeypointFolder(options.keypoints)
        self._source, self._camera, self._undistortion = source, camera, _undistortion(camera)

    def people(self, key: int, found: list[Person]) -> list[Person]:
        stem, position = frame_stem(self._source, key, 0)
        people = []
        for given in self._folder.people(self._source.name, stem, position):
            landmarks = given.shifted(self._camera.width / self._source.width, (0, 0))
            if self._undistortion is not None:
                hands = None if landmarks.hands is None else self._undistortion.points(landmarks.hands)
                landmarks = replace_points(landmarks, self._undistortion.points(landmarks.points), hands)
            index = nearest_person([p.landmarks for p in found], landmarks)
            if index is None:
                people.append(Person(landmarks, None))
            else:
                people.append(Person(replace(landmarks, world=found[index].landmarks.world), found[index].mask))
        return people


def _choose_people(people, frames, cameras, options) -> list[list[int | None]]:
    """Index of the chosen person in every image."""
    if cameras.calibrated and len(cameras.cameras) > 1:
        return choose_in_rig(cameras.cameras, people, options.person)
    chosen = []
    for row, frame in zip(people, frames):
        if frame.guide is not None:
            first = nearest_person([p.landmarks for p in row[0]], guide_at(frame, cameras.cameras[0]))
        else:
            first = options.person - 1 if len(row[0]) >= options.person else None
        chosen.append(choose_by_clothes(row, first, options.person))
    return chosen


def guide_at(frame: ChosenFrame, camera: StoredCamera) -> Landmarks:
    """The guide in pixels of the first camera's stored images."""
    return frame.guide.shifted(camera.width / frame.guide_width, (0, 0))


def _make_views(people, choice, files, frames, cameras, options, folder) -> Views:
    mask_folder = MaskFolder(options.masks) if options.masks is not None else None
    rembg = RembgMasks() if options.mask_method == "rembg" and mask_folder is None else None
    views: Views = []
    with tqdm(total=len(frames) * len(cameras.cameras), desc="masks", unit="image") as bar:
        for f, frame in enumerate(frames):
            row = []
            for c, camera in enumerate(cameras.cameras):
                name = image_name(camera.name, frame)
                index = choice[f][c]
                cell, people[f][c] = people[f][c], []  # releases the coarse masks
                if index is None:
                    row.append(View(name, None, None))
                    bar.update()
                    continue
                image = load_stored(folder, name)
                target = cell[index]
                others = [person for i, person in enumerate(cell) if i != index]
                if mask_folder is not None:
                    mask = _given_mask(mask_folder, files.sources[c], camera, frame.keys[c])
                elif rembg is not None:
                    mask = near_person(rembg(image), target.landmarks)
                elif target.mask is not None:
                    mask = person_mask(image, _expand(target), [_expand(other) for other in others])
                else:
                    raise InputError(
                        f"{name}: the pose network did not find the person of the keypoints, so there is no mask; "
                        "give --masks FOLDER"
                    )
                luminance = image[mask > 127] @ np.array([0.299, 0.587, 0.114]) if (mask > 127).any() else np.zeros(1)
                row.append(View(name, target.landmarks, mask, float(luminance.mean() / 255)))
                bar.update()
            views.append(row)
    return views


def _expand(person: Person) -> Person:
    return Person(person.landmarks, None if person.mask is None else person.mask.astype(np.float32) / 255)


def _given_mask(masks: MaskFolder, source: ImageSource, camera: StoredCamera, key: int) -> np.ndarray:
    stem, position = frame_stem(source, key, 0)
    path = masks.find(source.name, stem, position)
    if path is None:
        raise InputError(
            f"{masks.folder}: no mask for {source.label(key)} of {source.name} (expected {stem}.png, or as many "
            "files as frames); name masks like the images"
        )
    mask = masks.read(path, camera.width, camera.height)
    undistortion = _undistortion(camera)
    return mask if undistortion is None else undistortion.mask(mask)
