"""docs/results.md from the records: the table, what follows from it, and where each row comes from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.inference.report import DECIMALS, METRICS, SPLITS, mean_metrics
from core.results.records import Record, read_record
from core.results.rows import ROWS, Row
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

HEADINGS = {"psnr": "PSNR ↑", "psnr_box": "in box ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "lpips_alex": "Alex ↓"}
MARKS = "<!-- results -->", "<!-- /results -->"

INTRODUCTION = """# Results

On the test people of the synthetic benchmark, whom no training has seen. The avatar is made from 4 input views x 8
observed frames. *View*: the observed poses from the other cameras. *Pose*: two held-out poses, from the same cameras.
Predictions are rounded to 8 bits and composed on white, like the ground truth, which is drawn from textured meshes.
Numbers are means over pictures, then over people. *In box* is PSNR inside the person's box, *LPIPS* has the weights of
VGG and *Alex* those of AlexNet. *Avatar ms* is the median time from pictures on the device to the avatar, *Gaussians*
how many of it are not transparent. A dash is what has not been measured. The paper's numbers are of ten real people
(MVHumanNet) and cannot be compared with these.
"""
NOTES = "notes.md"
"""A file beside the records, written by hand: a part of the page, for what numbers do not say by themselves."""

AGAIN = """## Measure it again

```bash
python scripts/results.py --root benchmark --checkpoint model.safetensors    # all rows; goes on where it was stopped
python scripts/results.py --rows ablations       # a group of rows, or rows by their names; --list shows them
python scripts/results.py --table-only           # this file, from docs/results/*.json
```

A row that is there with the same settings (data, checkpoint or training, pictures) stays; `--again` measures it anew.
Two processes, on a GPU each, may measure different rows into the same folder. The ablations are trained by the script
itself (`--ablation-steps`, `--preset`), in `--workspace`, and go on there after an interruption.
"""


@dataclass(frozen=True)
class Finding:
    """A number that follows from records, beside what is aimed at."""

    what: str
    value: float | None
    target: float
    unit: str
    decimals: int = 2
    less_is_better: bool = False

    def cells(self) -> list[str]:
        value = "-" if self.value is None else f"{self.value:.{self.decimals}f} {self.unit}".strip()
        sign = "≤" if self.less_is_better else "≥"
        return [self.what, value, f"{sign} {self.target:g} {self.unit}".strip(), self._verdict()]

    def _verdict(self) -> str:
        if self.value is None:
            return "-"
        return "yes" if (self.value <= self.target if self.less_is_better else self.value >= self.target) else "no"


Records = dict[str, Record]
"""By the names of their rows; rows that have not been measured are missing."""


def read_records(folder: Path) -> Records:
    """All rows that have been measured.

    Raises:
        InputError: If a file is no record.
    """
    found = {row.name: read_record(folder, row.name) for row in ROWS}
    return {name: record for name, record in found.items() if record is not None}


def mean_of(records: Records, row: str, split: str, metric: str, people: Iterable[str] | None = None) -> float | None:
    """A row's metric, mean over all of its people or over the named ones; None if that was not measured."""
    if row not in records:
        return None
    metrics = records[row]["metrics"]
    if people is None:
        return metrics["mean"][split].get(metric)
    subjects = [metrics["subjects"].get(name, {}).get(split) for name in people]
    return mean_metrics(subjects).get(metric) if subjects and all(subjects) else None


def findings(records: Records) -> list[Finding]:
    """What the records say about the targets."""
    found = []
    for split, targets in zip(SPLITS, ((30.0, 0.965, 0.045), (29.0, 0.96, 0.05))):
        name = split.replace("_", " ")
        psnr, ssim, lpips = (mean_of(records, "ours", split, metric) for metric in ("psnr", "ssim", "lpips"))
        found.append(Finding(f"{name}, PSNR", psnr, targets[0], "dB"))
        found.append(Finding(f"{name}, SSIM", ssim, targets[1], "", 3))
        found.append(Finding(f"{name}, LPIPS", lpips, targets[2], "", 3, less_is_better=True))

    baseline = mean_of(records, "one-frame", "novel_pose", "psnr")
    for row, title in (("graph", "equal steps, no second look"), ("ours-256", "our model, which trained for longer")):
        gain = _minus(mean_of(records, row, "novel_pose", "psnr"), baseline)
        found.append(Finding(f"over the paper's baseline, novel pose ({title})", gain, 3.0, "dB"))
    found.append(
        Finding("1 input view x 8 frames, novel view", mean_of(records, "views-1", "novel_view", "psnr"), 27.0, "dB")
    )
    people = optimised_people(records)
    among = _count(people) or "some people"
    best, ours = (mean_of(records, row, "novel_pose", "psnr", people) for row in ("optimum", "ours"))
    found.append(Finding(f"below the per-person optimum, novel pose ({among})", _minus(best, ours), 3.0, "dB", 2, True))
    for split in SPLITS:
        low, ours, best = (
            mean_of(records, row, split, "psnr_box", people) for row in ("mean-color", "ours", "optimum")
        )
        share = None if None in (low, ours, best) or best == low else 100 * (ours - low) / (best - low)
        where = f"closed, in box, {split.replace('_', ' ')} ({among})"
        found.append(Finding(f"of the gap from painted mean colour to that optimum {where}", share, 60.0, "%", 0))
    return found


def optimised_people(records: Records) -> list[str]:
    """Names of those whose avatars were optimised one by one: some of the test people."""
    return list(records["optimum"]["metrics"]["subjects"]) if "optimum" in records else []


def results_page(records: Records, notes: str = "") -> str:
    """All of docs/results.md; `notes` is Markdown that was written by hand."""
    ours = ["ours", "mean-color", "vertex-color"]
    bounds = ["mean-color", "ours", "optimum"]
    people = optimised_people(records)
    inputs = ["views-1", "views-2", "frames-1", "frames-2", "frames-4", "ours"]
    ablations = [row.name for row in ROWS if row.group == "ablations"]
    return "\n".join(
        [
            INTRODUCTION,
            "## Against the targets\n",
            _markdown(["", "measured", "target", "met"], [finding.cells() for finding in findings(records)]),
            f"## The model and its bounds, pictures of {_sizes(records, ours)}\n",
            _section(records, ours, {"ours": "ours, 4 x 8"}),
            f"## The per-person optimum, pictures of {_sizes(records, bounds)}\n",
            f"All rows are means over the same {_count(people) or 'people'}: {', '.join(people) or '-'}.\n",
            _section(records, bounds, {"ours": "ours, 4 x 8"}, people=people),
            f"## Fewer inputs: views x frames, pictures of {_sizes(records, inputs)}\n",
            "All rows are measured by the same pictures, those of all 8 observed frames, however few are shown.\n",
            _section(records, inputs, {"ours": "4 x 8"}),
            f"## Ablations, pictures of {_sizes(records, ablations)}\n",
            _ablation_note(records),
            _section(records, [*ablations, "ours-256"], {}, METRICS[:-1], versus="graph"),
            "## Person by person: ours\n",
            _people(records),
            "## Where the rows come from\n",
            _provenance(records),
            *([notes.strip() + "\n"] if notes.strip() else []),
            AGAIN,
        ]
    )


def short_table(records: Records) -> str:
    """For the README: PSNR, SSIM and LPIPS of novel poses and views, of rows that have been measured.

    The optimum is left out: it is of other people than the rest.
    """
    metrics = ("psnr", "ssim", "lpips")
    header = ["", "pictures", *(f"{s.split('_')[1]} {HEADINGS[m]}" for s in SPLITS for m in metrics)]
    lines = [
        [
            row.title,
            _sizes(records, [row.name]),
            *(_number(mean_of(records, row.name, split, m), m) for split in SPLITS for m in metrics),
        ]
        for row in ROWS
        if row.name in records and row.group != "inputs" and row.name != "optimum"
    ]
    return _markdown(header, lines)


def write_page(folder: Path) -> Path:
    """Write the page beside the folder of records: docs/results -> docs/results.md."""
    path, notes = folder.with_suffix(".md"), folder / NOTES
    page = results_page(read_records(folder), notes.read_text(encoding="utf-8") if notes.is_file() else "")
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def write_excerpt(readme: Path, folder: Path) -> None:
    """Put the short table between the marks of a file.

    Raises:
        InputError: If it has no such marks.
    """
    text = readme.read_text(encoding="utf-8")
    start, end = (text.find(mark) for mark in MARKS)
    if not 0 <= start < end:
        raise InputError(f"{readme}: has no lines {MARKS[0]} and {MARKS[1]}; put them where the table shall go")
    table = short_table(read_records(folder))
    with atomic_path(readme) as temporary:
        temporary.write_text(f"{text[:start]}{MARKS[0]}\n{table}{text[end:]}", encoding="utf-8")


def _section(
    records: Records,
    names: list[str],
    titles: dict[str, str],
    metrics: Iterable[str] = METRICS,
    versus: str = "",
    people: list[str] | None = None,
) -> str:
    """Rows with both splits, Gaussians and time.

    Args:
        titles: Other titles than the rows' own.
        versus: A row; also show by how many dB novel poses differ from it.
        people: Take means over these alone.
    """
    metrics = list(metrics)
    own = {row.name: row.title for row in ROWS} | titles
    reference = mean_of(records, versus, "novel_pose", "psnr") if versus else None
    lines = []
    for name in names:
        line = [own[name], *(_number(mean_of(records, name, split, m, people), m) for split in SPLITS for m in metrics)]
        if versus:
            line.append(_signed(_minus(mean_of(records, name, "novel_pose", "psnr"), reference)))
        record = records.get(name, {})
        lines.append([*line, _rounded(record.get("gaussians"), 0), _rounded(record.get("avatar_ms"), 1)])
    header = ["", *_headings(metrics), *(["pose, dB"] if versus else []), "Gaussians", "avatar ms"]
    return _markdown(header, lines)


def _headings(metrics: Iterable[str]) -> list[str]:
    """Of both splits; the first of each says which."""
    return [f"{s.split('_')[1]} {HEADINGS[m]}" if m == "psnr" else HEADINGS[m] for s in SPLITS for m in metrics]


def _ablation_note(records: Records) -> str:
    steps = sorted({str(r["steps"]) for name, r in records.items() if _row(name).group == "ablations"})
    trained = f"{' or '.join(steps)} steps" if steps else "equal steps"
    settings = records["ours-256"]["settings"] if "ours-256" in records else {}
    differs = ["was trained for longer"]
    if settings.get("training", {}).get("model", {}).get("second_look"):
        differs.append("has the second look")
    if shown := settings.get("input", {}).get("image_size"):
        differs.append(f"is shown pictures of {shown} px")
    return (
        f"Each trained from nothing for {trained}, with the same seed and data, and without the second look but where "
        "it is named. *Pose, dB* is the difference from the full graph. Each was trained once: what another seed would "
        "change has not been measured, so tenths of a dB rank nothing. The last row is our model, which "
        f"{', '.join(differs[:-1])}{' and ' if differs[:-1] else ''}{differs[-1]}.\n"
    )


def _people(records: Records) -> str:
    subjects = records["ours"]["metrics"]["subjects"] if "ours" in records else {}
    lines = [
        [name, *(_number(splits[split].get(m), m) for split in SPLITS for m in METRICS)]
        for name, splits in subjects.items()
    ]
    return _markdown(["", *_headings(METRICS)], lines)


def _provenance(records: Records) -> str:
    header = ["row", "steps", "training min", "commit", "data", "device", "PyTorch", "date"]
    lines = [
        [
            name,
            *_trained(name, r),
            *(r["commit"], r["data"], r["device"], r["versions"]["torch"], r["date"]),
        ]
        for name, r in records.items()
    ]
    notes = []
    if any(cells[1].startswith("+") for cells in lines):
        notes.append("Steps with a plus are those after the checkpoint that the training began from (`--init`).\n")
    if len({r["data"] for r in records.values()}) > 1:
        notes.append("**Rows are of different data and cannot be compared; measure the older ones again.**\n")
    if len({r["settings"]["checkpoint"] for r in records.values() if "checkpoint" in r["settings"]}) > 1:
        notes.append("**Rows of our model are of different checkpoints; measure the older ones again.**\n")
    return "\n".join([*notes, _markdown(header, lines)])


def _trained(name: str, record: Record) -> tuple[str, str]:
    """Steps and minutes of all trainings behind a row; with a plus where the first of them are not known."""
    if trainings := record.get("trainings"):
        steps = " + ".join(f"{own['steps']} at {own['image_size']} px" for own in trainings)
        minutes = " + ".join(_rounded(own["minutes"], 1) for own in trainings)
        return steps, minutes
    is_ours = _row(name).group in ("model", "inputs")
    began = "+" if is_ours and record["settings"].get("training", {}).get("init") else ""
    return began + _rounded(record["steps"], 0), _rounded(record["train_minutes"], 1)


def _count(people: list[str]) -> str:
    return f"{len(people)} {'person' if len(people) == 1 else 'people'}" if people else ""


def _row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def _sizes(records: Records, names: list[str]) -> str:
    sizes = sorted({records[name]["settings"]["image_size"] for name in names if name in records})
    return " and ".join(f"{size} px" for size in sizes) or "the benchmark"


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _number(value: float | None, metric: str) -> str:
    return _rounded(value, min(3, DECIMALS[metric]))


def _rounded(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
