"""Which data a row was measured on."""

import hashlib
import json
from pathlib import Path

from core.data.calibration import read_json
from core.data.human_list import find_subjects
from smpl_renderer.files import REPOSITORY

BENCHMARK = REPOSITORY / "configs" / "benchmark.json"


def data_id(train: Path, test: Path, benchmark: Path = BENCHMARK) -> str:
    """The benchmark's checksums, `<train>-<test>`, where these are its people; else a hash of who they are.

    Raises:
        InputError: If there are no test people.
    """
    people = {"test": [entry.subject for entry in find_subjects(test)], "train": []}
    if train.is_dir():
        people["train"] = [entry.subject for entry in find_subjects(train)]
    made = [_made(test / subject) for subject in people["test"]]
    return _checksums(people, made, benchmark) or hashlib.sha256(json.dumps([people, made]).encode()).hexdigest()[:16]


def _made(subject: Path) -> dict:
    """How a synthetic capture was made; of others, their calibration."""
    record = subject / "body.json"
    return read_json(record if record.is_file() else subject / "camera_extrinsics.json")


def _checksums(people: dict[str, list[str]], made: list[dict], benchmark: Path) -> str | None:
    """Of the benchmark's splits, if all its people are here and the test people were made as it says."""
    if not benchmark.is_file():
        return None
    content = read_json(benchmark)
    words = []
    for split, names in people.items():
        own = content["splits"][split]
        wanted = [str(own["first_subject"] + i) for i in range(own["subjects"])]
        if names != wanted or not own.get("checksum"):
            return None
        words.insert(0, own["checksum"][:8])
    options = {**content["capture"], "split": "test"}
    for record in made:
        differs = record.get("generator") != content["generator"]
        if differs or any(record.get("options", {}).get(key) != value for key, value in options.items()):
            return None
    return "-".join(words)
