"""Finding subjects: folders, and lists in both of HGG's spellings and places."""

import json
import logging

import pytest

from core.data.human_list import HumanEntry, find_subjects, split_subjects
from smpl_renderer.errors import InputError


@pytest.fixture
def root(tmp_path):
    """A folder of three subjects, and things that are none."""
    for name in ("200002", "200001", "200003"):
        (tmp_path / "captures" / name).mkdir(parents=True)
        (tmp_path / "captures" / name / "camera_extrinsics.json").write_text("{}")
    (tmp_path / "captures/notes").mkdir()
    (tmp_path / "captures/readme.txt").write_text("")
    return tmp_path / "captures"


def names(entries: list[HumanEntry]) -> list[str]:
    return [entry.subject for entry in entries]


def test_without_a_list_all_subjects_in_order(root):
    entries = find_subjects(root)
    assert names(entries) == ["200001", "200002", "200003"]
    assert all(entry.views is None and entry.poses is None for entry in entries)


def test_half_written_subjects_are_none(root):
    (root / "200001").rename(root / ".200001.0a1b2c3d")
    assert names(find_subjects(root)) == ["200002", "200003"]


def test_one_subject(root, monkeypatch):
    assert find_subjects(root / "200002") == [HumanEntry(root / "200002")]
    monkeypatch.chdir(root / "200003")
    assert names(find_subjects(".")) == ["200003"]


@pytest.mark.parametrize("suffix", ["", "_list"])
@pytest.mark.parametrize("place", ["human.json", "../human.json", "human_debug.json", "../human_debug.json"])
def test_lists_in_both_spellings_and_places(root, place, suffix):
    content = {"human_id": ["200003", 200001], f"view_id{suffix}": ["a", "b"], f"pose_id{suffix}": ["0005", "0055"]}
    (root / place).write_text(json.dumps(content))
    entries = find_subjects(root)
    assert names(entries) == ["200003", "200001"]
    assert entries[0].views == ("a", "b") and entries[0].poses == (5, 55)


def test_the_folders_own_list_comes_first(root):
    (root / "human.json").write_text('{"human_id": ["200001"]}')
    (root / "../human.json").write_text('{"human_id": ["200002"]}')
    assert names(find_subjects(root)) == ["200001"]


def test_a_list_beside_that_is_about_other_data_is_ignored(root):
    (root / "../human.json").write_text('{"human_id": ["999999"]}')
    assert len(find_subjects(root)) == 3


def test_missing_subjects_are_named_in_a_warning(root, caplog):
    (root / "human.json").write_text('{"human_id": ["200001", "200777"]}')
    with caplog.at_level(logging.WARNING):
        assert names(find_subjects(root)) == ["200001"]
    assert "1 of 2" in caplog.text and "200777" in caplog.text


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object with `human_id`"),
        ('{"human_id": "200001"}', "`human_id` must be a list"),
        ('{"human_id": ["200777"]}', "none of its 1 subjects has a folder; here are 200001"),
        ('{"human_id": ["200001"], "pose_id": ["five"]}', 'poses must be image ids such as "0005"'),
    ],
)
def test_broken_lists(root, content, message):
    (root / "human.json").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        find_subjects(root)
    assert "human.json" in str(error.value) and "\n" not in str(error.value)


def test_no_subjects(root, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_subjects(tmp_path / "nothing")
    with pytest.raises(InputError, match="neither a capture nor a folder of captures"):
        find_subjects(root / "notes")


@pytest.mark.parametrize("held_out, expected", [(0, 0), (1, 1), (2, 2), (9, 2)])
def test_split_holds_out_the_last_but_never_all(root, held_out, expected):
    train, validation = split_subjects(find_subjects(root), held_out)
    assert len(validation) == expected
    assert names(train + validation) == ["200001", "200002", "200003"]
