"""docs/results.md: findings, tables and their people."""

import hashlib
import json
from pathlib import Path

import pytest

from core.inference.options import SHIPPED_CHECKPOINT
from scripts.results.findings import findings, read_records
from scripts.results.page import NOTES, README_ROWS, results_page, short_table, write_excerpt, write_page
from scripts.results.rows import ROWS
from scripts.results.run import list_rows
from smpl_renderer.errors import InputError

SHIPPED = Path(__file__).parents[3] / "docs" / "results"


def test_the_shipped_page_is_of_the_shipped_records_and_checkpoint():
    records = read_records(SHIPPED)
    assert SHIPPED.with_suffix(".md").read_text() == results_page(records, (SHIPPED / NOTES).read_text())
    checkpoint = hashlib.sha256(SHIPPED_CHECKPOINT.read_bytes()).hexdigest()
    assert records["ours"]["settings"]["checkpoint"] == checkpoint


def fake_record(row: str, view: float, pose: float, people=("a", "b")) -> dict:
    """A record with the given PSNR, 4 dB less in the box, and 1 dB more for person b than for person a."""

    def scores(psnr: float) -> dict:
        return {"psnr": psnr, "psnr_box": psnr - 4, "ssim": 0.97, "lpips": 0.04, "lpips_alex": None}

    subjects = {
        name: {"novel_view": scores(view + i - 0.5), "novel_pose": scores(pose + i - 0.5)}
        for i, name in enumerate(people)
    }
    mean = {"novel_view": scores(view), "novel_pose": scores(pose)}
    return {
        "row": row,
        "settings": {"image_size": 512, "data": "d"},
        "metrics": {"mean": mean, "subjects": subjects},
        "commit": "abc",
        "data": "d",
        "date": "2026-11-25",
        "device": "cpu",
        "versions": {"torch": "2"},
        "steps": 10,
        "train_minutes": None,
        "gaussians": 27560.0,
        "avatar_ms": 12.34,
    }


def test_findings_compare_the_same_people():
    records = {
        "ours": fake_record("ours", 31, 30),
        "views-1": fake_record("views-1", 28, 27),
        "mean-color": fake_record("mean-color", 21, 20),
        "optimum": fake_record("optimum", 33.5, 32.5, people=("b",)),  # 33 and 32 for b
        "graph": fake_record("graph", 27, 26),
        "one-frame": fake_record("one-frame", 23, 22),
    }
    records["optimum"]["metrics"]["mean"] = records["optimum"]["metrics"]["subjects"]["b"]
    found = {finding.title: finding for finding in findings(records)}
    values = {what: finding.value for what, finding in found.items()}
    assert values["novel view, PSNR"] == 31 and found["novel view, PSNR"].cells()[-1] == "yes"
    assert values["gain over the paper's baseline, novel pose (equal steps, graph only)"] == 4
    title = "gain over the paper's baseline, novel pose (our model, trained for longer)"
    assert values[title] is None  # not measured at that size
    assert values["1 input view x 8 frames, novel view"] == 28
    # Person b: ours 30.5, mean colour 20.5, optimum 32.0.
    assert values["distance to the optimum per subject, novel pose (1 person)"] == pytest.approx(1.5)
    share = values["share of the gap from mean colour to that optimum, in box, novel pose (1 person)"]
    assert share == pytest.approx(100 * 10 / 11.5)


def test_refined_avatars_have_a_column_in_the_table_of_targets():
    records = {
        "ours": fake_record("ours", 29, 29.5),
        "refined": fake_record("refined", 31, 28),
        "refined-1": fake_record("refined-1", 26, 25),
        "mean-color": fake_record("mean-color", 21, 20),
        "optimum": fake_record("optimum", 33, 32),
    }
    lines = {finding.title: finding.cells()[1:] for finding in findings(records)}
    assert lines["novel view, PSNR"] == ["29.00 dB", "31.00 dB", "≥ 30 dB", "refined"]
    assert lines["novel pose, PSNR"] == ["29.50 dB", "28.00 dB", "≥ 29 dB", "yes"]
    assert lines["1 input view x 8 frames, novel view"] == ["-", "26.00 dB", "≥ 27 dB", "no"]
    assert lines["distance to the optimum per subject, novel pose (2 people)"] == [
        "2.50 dB",
        "4.00 dB",
        "≤ 3 dB",
        "yes",
    ]
    share = lines["share of the gap from mean colour to that optimum, in box, novel view (2 people)"]
    assert share == ["67 %", "83 %", "≥ 60 %", "yes"]
    page = results_page(records)
    assert "|  | one pass | refined | target | met |" in page
    assert "| ours, refined on its inputs | 31.00 |" in table_under(page, "The model and its bounds")
    assert "| 1 x 8, refined | 26.00 |" in table_under(page, "Fewer inputs")
    assert "| ours, refined on its inputs |" in short_table(records) and "1 x 8" not in short_table(records)


def test_the_page_of_no_records_and_of_some(tmp_path):
    assert "| novel view, PSNR | - | - | ≥ 30 dB | - |" in results_page({})
    records = {
        "ours": fake_record("ours", 31, 30),
        "graph": fake_record("graph", 27, 26),
        "layers-1": fake_record("l", 26, 25.5),
    }
    page = results_page(records)
    ours = "| ours, 4 x 8 | 31.00 | 27.00 | 0.970 | 0.040 | - | 30.00 | 26.00 | 0.970 | 0.040 | - | 27560 | 12.3 |"
    assert ours in page
    assert "| L = 1 | 26.00 | 22.00 | 0.970 | 0.040 | 25.50 | 21.50 | 0.970 | 0.040 | -0.50 | 27560 | 12.3 |" in page
    assert "different data" not in page
    records["graph"]["data"] = "other"
    assert "different data and cannot be compared" in results_page(records)

    for name, content in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    write_excerpt(readme, tmp_path)
    text = readme.read_text()
    assert text == f"before\n<!-- results -->\n{short_table(records)}<!-- /results -->\nafter\n" and "old" not in text
    write_excerpt(readme, tmp_path)
    assert readme.read_text() == text
    readme.write_text("nothing here")
    with pytest.raises(InputError, match="has no lines"):
        write_excerpt(readme, tmp_path)


def table_under(page: str, heading: str) -> str:
    """A section of the page."""
    return next(section for section in page.split("\n## ") if section.startswith(heading))


def test_the_optimum_is_compared_only_with_the_same_people():
    records = {"ours": fake_record("ours", 31, 30), "optimum": fake_record("optimum", 33, 32, people=("b",))}
    page = results_page(records)
    section = table_under(page, "The optimum per subject, images of 512 px")
    assert "the same 1 person: b." in section
    assert "| ours, 4 x 8 | 31.50 | 27.50 |" in section  # b
    assert "| the same Gaussians, optimised on the target images of each subject | 32.50 |" in section
    assert "| posed body in the mean colour of the inputs | - |" in section
    assert "optimised" not in table_under(page, "The model and its bounds") + short_table(records)


def test_all_trainings_of_a_row_are_listed():
    records = {name: fake_record(name, 31, 30) for name in ("ours", "optimum", "graph")}
    assert "| ours | 10 | - |" in results_page(records)
    for record in records.values():
        record["settings"]["training"] = {"init": "first.safetensors"}
    page = results_page(records)
    assert "| ours | +10 | - |" in page and "Steps with a plus" in page
    assert "| optimum | 10 | - |" in page  # steps of the optimisation of Gaussians
    trainings = [{"steps": 900, "image_size": 256, "minutes": 9.25}, {"steps": 10, "image_size": 512, "minutes": None}]
    records["ours"]["trainings"] = trainings
    page = results_page(records)
    assert "| ours | 900 at 256 px + 10 at 512 px | 9.2 + - |" in page and "Steps with a plus" not in page


def test_notes_are_part_of_the_page(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / NOTES).write_text("## Mind\n\nthe gap\n")
    for _ in range(2):
        page = write_page(folder).read_text()
        assert page.count("\n## Mind\n\nthe gap\n\n## How to measure\n") == 1


def test_image_sizes_are_stated():
    records = {name: fake_record(name, 31, 30) for name in ("ours", "ours-256", "graph")}
    for name in ("ours-256", "graph"):
        records[name]["settings"]["image_size"] = 256
    records["ours-256"]["settings"]["input"] = {"image_size": 512}
    lines = short_table(records).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["512 px", "256 px"]
    page = results_page(records)
    assert "for 10 steps" in page and "which was trained for longer and has input images of 512 px." in page


def test_the_table_of_the_readme_has_six_rows():
    records = {row.name: fake_record(row.name, 31, 30) for row in ROWS}
    title_of = {row.name: row.title for row in ROWS}
    rows = [line.split(" | ")[0].removeprefix("| ") for line in short_table(records).splitlines()[2:]]
    assert rows == [title_of[name] for name in README_ROWS] and len(rows) == 6


def test_list_contains_all_rows_and_their_records(options):
    options.out.mkdir()
    (options.out / "ours.json").write_text(json.dumps(fake_record("ours", 31, 30)))
    lines = list_rows(options).splitlines()
    assert len(lines) == len(ROWS)
    assert "2026-11-25, abc" in lines[0] and lines[1].split()[2] == "-"
