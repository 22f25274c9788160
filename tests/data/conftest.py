"""Captures that the tests of the readers bend."""

import pytest
from bent_captures import read, write_sound


@pytest.fixture(scope="session")
def sound(tmp_path_factory, body):
    """A capture, and its frames as they are read. Copy it first to change it."""
    folder = write_sound(tmp_path_factory.mktemp("sound") / "209001", body)
    return folder, read(folder, body)
