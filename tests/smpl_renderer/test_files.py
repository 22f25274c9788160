"""Files and folders are written completely or not at all, and a failure keeps what they would replace."""

import pytest

from smpl_renderer.files import atomic_path


def test_a_file_replaces_another_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with atomic_path(path) as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text(text)
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_replaces_another_one(tmp_path):
    path = tmp_path / "results"
    for name in ("old", "new"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_keeps_the_previous_content(tmp_path, folder):
    path = tmp_path / "kept"
    path.mkdir() if folder else path.touch()
    if folder:
        (path / "inside").touch()
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "half").touch()
        else:
            temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    if folder:
        assert [p.name for p in path.iterdir()] == ["inside"]
    else:
        assert path.read_text() == ""
