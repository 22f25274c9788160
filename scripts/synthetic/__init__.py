"""Synthetic captures: varied, clothed, posed people, drawn and written as captures.

A replacement for data whose licence forbids shipping it. Everything follows from seeds; nothing is downloaded.
"""

from scripts.synthetic.capture import write_capture
from scripts.synthetic.options import (
    FIRST_SUBJECT,
    GENERATOR_VERSION,
    PAPER_FRAMES,
    CaptureOptions,
    default_frames,
)
from scripts.synthetic.sets import CaptureSet, default_workers, shard, write_dataset, write_datasets

__all__ = [
    "FIRST_SUBJECT",
    "GENERATOR_VERSION",
    "PAPER_FRAMES",
    "CaptureOptions",
    "CaptureSet",
    "default_frames",
    "default_workers",
    "shard",
    "write_capture",
    "write_dataset",
    "write_datasets",
]
