"""Random streams: every choice about a person depends on (seed, split, person, topic) and on nothing else."""

import hashlib
import json

import numpy as np


def random_stream(seed: int, split: str, index: int, topic: str) -> np.random.Generator:
    """A generator of its own for one topic (`shape`, `outfit`, `motion` ...) of one person.

    Streams are independent of each other, so that a change in how one topic draws leaves the others as they were, and
    people of different splits share nothing.
    """
    digest = hashlib.sha256(f"{seed}/{split}/{index}/{topic}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def digest(value: object) -> str:
    """Sixteen digits that change when any number in nested dicts and sequences does.

    Numbers count with six digits: the last ones of a sine or a power differ between processors.
    """
    text = json.dumps(_rounded(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return f"{value:.6g}" if isinstance(value, float) else value
