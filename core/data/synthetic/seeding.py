"""Random streams: every choice about a person depends on (seed, split, person, topic) and on nothing else."""

import hashlib

import numpy as np


def random_stream(seed: int, split: str, index: int, topic: str) -> np.random.Generator:
    """A generator of its own for one topic (`body`, `clothes`, `motion` ...) of one person.

    Streams are independent of each other, so that a change in how one topic draws leaves the others as they were, and
    people of different splits share nothing.
    """
    digest = hashlib.sha256(f"{seed}/{split}/{index}/{topic}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
