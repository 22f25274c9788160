"""Identification of the data of a row."""

import hashlib
import json
from pathlib import Path

from core.data.human_list import find_subjects
from core.data.input_files import read_json
from smpl_renderer.files import REPOSITORY

BENCHMARK = REPOSITORY / "configs" / "benchmark.json"


def data_id(train: Path, test: Path, benchmark: Path = BENCHMARK) -> str:
    """The checksums `<train>-<test>` of the benchmark for its captures; a hash of subjects and cameras for others.

    Raises:
        InputError: If there are no test captures.
    """
    people = {"test": [entry.subject for entry in find_subjects(test)], "train": []}
    if train.is_dir():
        people["train"] = [entry.subject for entry in find_subjects(train)]
    made = [_made(test / subject) for subject in people["test"]]
    return _checksums(people, made, benchmark) or hashlib.sha256(json.dumps([people, made]).encode()).hexdigest()[:16]


def _made(subject: Path) -> dict:
    """The stamp of a synthetic capture, or the calibration of another capture."""
    record = subject / "body.json"
    return read_json(record if record.is_file() else subject / "camera_extrinsics.json")


def _checksums(people: dict[str, list[str]], made: list[dict], benchmark: Path) -> str | None:
    """Checksums of the benchmark's splits, if these are its subjects, made with its options; None otherwise."""
    if not benchmark.is_file():
        return None
    content = read_json(benchmark)
    checksums = []
    for split, names in people.items():
        own = content["splits"][split]
        wanted = [str(own["first_subject"] + i) for i in range(own["subjects"])]
        if names != wanted or not own.get("checksum"):
            return None
        checksums.insert(0, own["checksum"][:8])
    options = {**content["capture"], "split": "test"}
    for record in made:
        differs = record.get("generator") != content["generator"]
        if differs or any(record.get("options", {}).get(key) != value for key, value in options.items()):
            return None
    return "-".join(checksums)
