"""docs/results.md and the table of the README, generated from the records."""

from collections.abc import Iterable
from pathlib import Path

from core.inference.report import METRICS, SPLITS
from scripts.results.findings import Records, count_people, findings, mean_of, optimised_people, read_records
from scripts.results.markdown import metric_cell, minus, number, signed, table
from scripts.results.records import Record
from scripts.results.rows import ROWS, Row
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

HEADINGS = {"psnr": "PSNR ↑", "psnr_box": "in box ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "lpips_alex": "Alex ↓"}
MARKS = "<!-- results -->", "<!-- /results -->"
"""Lines of the README around the short table."""
README_ROWS = ("ours", "refined", "mean-color", "vertex-color", "one-frame", "graph")
"""Rows of the short table."""

INTRODUCTION = """# Results

On the test people of the synthetic benchmark, who are in no training set. Avatars are made from 4 input views x 8
observed frames. *View*: the observed poses in the other cameras. *Pose*: two held-out poses in the same cameras.
Renderings are rounded to 8 bits and composed on white, like the target images, which show textured meshes. Metrics are
means over images, then over people. *In box* is the PSNR inside of the subject's bounding box; *LPIPS* uses VGG, *Alex*
uses AlexNet. *Avatar ms* is the median time from images on the device to the avatar, *Gaussians* the number of
Gaussians that are not transparent. *Refined* avatars are the network's avatars (*one pass*) after some gradient steps
on their input images (`infer.py --refine`). A dash marks values that were not measured. The paper's metrics are those
of ten real people (MVHumanNet) and cannot be compared with these.
"""
NOTES = "notes.md"
"""File beside the records with a part of the page that is written by hand."""

AGAIN = """## How to measure

```bash
python scripts/results.py --root benchmark --checkpoint model.safetensors    # all rows; an interrupted run resumes
python scripts/results.py --rows ablations       # rows or groups of rows by name; --list shows them
python scripts/results.py --table-only           # only this page, from docs/results/*.json
```

A row with a record of the same settings (data, checkpoint or training, target images) is not measured again, except
with `--again`. Two processes, each on a GPU, may measure different rows into one folder. The script trains the
ablations itself (`--ablation-steps`, `--preset`) in `--workspace`, where interrupted trainings resume. `--refine-steps`
sets the steps of the refined rows.
"""


def write_page(folder: Path) -> Path:
    """Write the page beside the folder of records: docs/results -> docs/results.md."""
    path, notes = folder.with_suffix(".md"), folder / NOTES
    page = results_page(read_records(folder), notes.read_text(encoding="utf-8") if notes.is_file() else "")
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def write_excerpt(readme: Path, folder: Path) -> None:
    """Write the short table between the marks of a file.

    Raises:
        InputError: If the file has no marks.
    """
    text = readme.read_text(encoding="utf-8")
    start, end = (text.find(mark) for mark in MARKS)
    if not 0 <= start < end:
        raise InputError(f"{readme}: has no lines {MARKS[0]} and {MARKS[1]}; add them where the table belongs")
    excerpt = short_table(read_records(folder))
    with atomic_path(readme) as temporary:
        temporary.write_text(f"{text[:start]}{MARKS[0]}\n{excerpt}{text[end:]}", encoding="utf-8")


def results_page(records: Records, notes: str = "") -> str:
    """The content of docs/results.md; `notes` is a part in Markdown that is written by hand."""
    ours = ["ours", "refined", "mean-color", "vertex-color"]
    bounds = ["mean-color", "ours", "refined", "optimum"]
    people = optimised_people(records)
    inputs = ["views-1", "refined-1", "views-2", "frames-1", "frames-2", "frames-4", "ours", "refined"]
    if "single" in records:
        inputs.insert(0, "single")
    ablations = [row.name for row in ROWS if row.group == "ablations" and row.name in records]
    return "\n".join(
        [
            INTRODUCTION,
            "## Against the targets\n",
            table(["", "one pass", "refined", "target", "met"], [finding.cells() for finding in findings(records)]),
            f"## The model and its bounds, images of {_sizes(records, ours)}\n",
            _section(records, ours, {"ours": "ours, 4 x 8"}),
            f"## The optimum per subject, images of {_sizes(records, bounds)}\n",
            f"All rows are means over the same {count_people(people) or 'people'}: {', '.join(people) or '-'}.\n",
            _section(records, bounds, {"ours": "ours, 4 x 8"}, people=people),
            f"## Fewer inputs: views x frames, images of {_sizes(records, inputs)}\n",
            "All rows are measured by the same target images, those of all 8 observed frames.\n",
            _section(records, inputs, {"ours": "4 x 8", "refined": "4 x 8, refined"}),
            f"## Ablations, images of {_sizes(records, ablations)}\n",
            _ablation_note(records),
            _section(records, [*ablations, "ours-256"], {}, METRICS[:-1], versus="graph"),
            "## Our model by subject\n",
            _subjects(records),
            "## Origin of the rows\n",
            _provenance(records),
            *([notes.strip() + "\n"] if notes.strip() else []),
            AGAIN,
        ]
    )


def short_table(records: Records) -> str:
    """PSNR, SSIM and LPIPS of the measured rows among `README_ROWS`."""
    metrics = ("psnr", "ssim", "lpips")
    header = ["", "images", *(f"{s.split('_')[1]} {HEADINGS[m]}" for s in SPLITS for m in metrics)]
    rows = [
        [
            _row(name).title,
            _sizes(records, [name]),
            *(metric_cell(mean_of(records, name, split, m), m) for split in SPLITS for m in metrics),
        ]
        for name in README_ROWS
        if name in records
    ]
    return table(header, rows)


def _section(
    records: Records,
    names: list[str],
    titles: dict[str, str],
    metrics: Iterable[str] = METRICS,
    versus: str = "",
    people: list[str] | None = None,
) -> str:
    """A table of rows: metrics of both splits, Gaussians and time.

    Args:
        records: All records.
        names: Names of the rows.
        titles: Titles that replace those of the rows.
        metrics: Metrics of each split.
        versus: A row; adds a column with the differences of novel poses from it.
        people: People to take means over; by default all.
    """
    metrics = list(metrics)
    title_of = {row.name: row.title for row in ROWS} | titles
    reference = mean_of(records, versus, "novel_pose", "psnr") if versus else None
    rows = []
    for name in names:
        scores = [metric_cell(mean_of(records, name, split, m, people), m) for split in SPLITS for m in metrics]
        if versus:
            scores.append(signed(minus(mean_of(records, name, "novel_pose", "psnr"), reference)))
        record = records.get(name, {})
        rows.append([title_of[name], *scores, number(record.get("gaussians"), 0), number(record.get("avatar_ms"), 1)])
    header = ["", *_headings(metrics), *(["pose, dB"] if versus else []), "Gaussians", "avatar ms"]
    return table(header, rows)


def _headings(metrics: Iterable[str]) -> list[str]:
    """Headings of both splits; the first of each names the split."""
    return [f"{s.split('_')[1]} {HEADINGS[m]}" if m == "psnr" else HEADINGS[m] for s in SPLITS for m in metrics]


def _ablation_note(records: Records) -> str:
    steps = sorted({str(r["steps"]) for name, r in records.items() if _row(name).group == "ablations"})
    trained = f"{' or '.join(steps)} steps" if steps else "equal steps"
    settings = records["ours-256"]["settings"] if "ours-256" in records else {}
    network = settings.get("training", {}).get("model", {})
    differences = ["was trained for longer"]
    for option, name in (("color_sampling", "image colour sampling"), ("feedback", "feedback")):
        if network.get(option):
            differences.append(f"has {name}")
    if size := settings.get("input", {}).get("image_size"):
        differences.append(f"has input images of {size} px")
    return (
        f"Each network is trained from scratch for {trained}, with the same seed and data, and without image colour "
        "sampling and feedback except where these are named. *Pose, dB* is the difference from the full graph. There "
        "is one training per row, and the variation between seeds has not been measured: differences of tenths of a "
        f"dB give no ranking. The last row is our model, which {', '.join(differences[:-1])}"
        f"{' and ' if differences[:-1] else ''}{differences[-1]}.\n"
    )


def _subjects(records: Records) -> str:
    subjects = records["ours"]["metrics"]["subjects"] if "ours" in records else {}
    rows = [
        [name, *(metric_cell(splits[split].get(m), m) for split in SPLITS for m in METRICS)]
        for name, splits in subjects.items()
    ]
    return table(["", *_headings(METRICS)], rows)


def _provenance(records: Records) -> str:
    header = ["row", "steps", "training min", "commit", "data", "device", "PyTorch", "date"]
    rows = [
        [
            name,
            *_trained(name, r),
            *(r["commit"], r["data"], r["device"], r["versions"]["torch"], r["date"]),
        ]
        for name, r in records.items()
    ]
    notes = []
    if any(cells[1].startswith("+") for cells in rows):
        notes.append("Steps with a plus follow those of the initial checkpoint of the training (`--init`).\n")
    if len({r["data"] for r in records.values()}) > 1:
        notes.append("**Rows have different data and cannot be compared; measure the older ones again.**\n")
    if len({r["settings"]["checkpoint"] for r in records.values() if "checkpoint" in r["settings"]}) > 1:
        notes.append("**Rows of our model have different checkpoints; measure the older ones again.**\n")
    return "\n".join([*notes, table(header, rows)])


def _trained(name: str, record: Record) -> tuple[str, str]:
    """Steps and minutes of all trainings of a row; a leading plus if the first of them are not known."""
    if trainings := record.get("trainings"):
        steps = " + ".join(f"{own['steps']} at {own['image_size']} px" for own in trainings)
        minutes = " + ".join(number(own["minutes"], 1) for own in trainings)
        return steps, minutes
    is_ours = _row(name).group in ("model", "inputs")
    plus = "+" if is_ours and record["settings"].get("training", {}).get("init") else ""
    return plus + number(record["steps"], 0), number(record["train_minutes"], 1)


def _row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def _sizes(records: Records, names: list[str]) -> str:
    sizes = sorted({records[name]["settings"]["image_size"] for name in names if name in records})
    return " and ".join(f"{size} px" for size in sizes) or "the benchmark"
