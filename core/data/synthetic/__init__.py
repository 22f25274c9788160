"""Synthetic captures: varied people in clothes, posed, drawn and written in MVHumanNet's layout.

They stand in for data that cannot be shipped. Everything follows from seeds; nothing is downloaded.
"""

from core.data.synthetic.capture import (
    FIRST_SUBJECT,
    GENERATOR_VERSION,
    PAPER_FRAMES,
    CaptureOptions,
    default_frames,
    write_capture,
    write_dataset,
)

__all__ = [
    "FIRST_SUBJECT",
    "GENERATOR_VERSION",
    "PAPER_FRAMES",
    "CaptureOptions",
    "default_frames",
    "write_capture",
    "write_dataset",
]
