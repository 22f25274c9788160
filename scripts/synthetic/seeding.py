"""Random streams: every draw depends on (seed, split, person, topic) only."""

import hashlib
import json

import numpy as np


def random_stream(seed: int, split: str, index: int, topic: str) -> np.random.Generator:
    """The generator of one topic (`shape`, `outfit`, `motion` ...) of one person.

    Streams are independent: a change of the draws of one topic leaves all other topics unchanged, and people of
    different splits have no draws in common. The strings are part of the seed.
    """
    digest = hashlib.sha256(f"{seed}/{split}/{index}/{topic}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def digest(value: object) -> str:
    """Hash (16 hexadecimal digits) of nested dicts and sequences.

    Floats are rounded to six significant digits, because the last digits of a sine or a power differ between
    processors.
    """
    text = json.dumps(_rounded(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return f"{value:.6g}" if isinstance(value, float) else value
