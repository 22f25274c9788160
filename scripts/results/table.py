"""docs/results.md from the records: the table, what follows from it, and where each row comes from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.inference.report import DECIMALS, METRICS, SPLITS, mean_metrics
from scripts.results.records import Record, read_record
from scripts.results.rows import ROWS, Row
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
how many of it are not transparent. *Refined* avatars are those of the network (*one pass*) after some gradient steps on
the pictures that it was shown, and on no others (`infer.py --refine`). A dash is what has not been measured. The
paper's numbers are of ten real people (MVHumanNet) and cannot be compared with these.
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
itself (`--ablation-steps`, `--preset`), in `--workspace`, and go on there after an interruption. `--refine-steps` is of
the refined rows.
"""


@dataclass(frozen=True)
class Finding:
    """Numbers that follow from records, beside what is aimed at."""

    what: str
    value: float | None
    """Of the network by itself."""
    refined: float | None
    """Of its avatars, refined."""
    target: float
    unit: str
    decimals: int = 2
    less_is_better: bool = False

    def cells(self) -> list[str]:
        values = [
            "-" if x is None else f"{x:.{self.decimals}f} {self.unit}".strip() for x in (self.value, self.refined)
        ]
        sign = "≤" if self.less_is_better else "≥"
        return [self.what, *values, f"{sign} {self.target:g} {self.unit}".strip(), self._verdict()]

    def _verdict(self) -> str:
        if self.value is None and self.refined is None:
            return "-"
        if self._is_met(self.value):
            return "yes"
        return "refined" if self._is_met(self.refined) else "no"

    def _is_met(self, value: float | None) -> bool:
        return value is not None and (value <= self.target if self.less_is_better else value >= self.target)


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
        scores = {
            metric: [mean_of(records, row, split, metric) for row in ("ours", "refined")]
            for metric in ("psnr", "ssim", "lpips")
        }
        found.append(Finding(f"{name}, PSNR", *scores["psnr"], targets[0], "dB"))
        found.append(Finding(f"{name}, SSIM", *scores["ssim"], targets[1], "", 3))
        found.append(Finding(f"{name}, LPIPS", *scores["lpips"], targets[2], "", 3, less_is_better=True))

    baseline = mean_of(records, "one-frame", "novel_pose", "psnr")
    for row, title in (
        ("graph", "equal steps, the graph alone"),
        ("feedback", "equal steps, with the second look and feedback"),
        ("ours-256", "our model, which trained for longer"),
    ):
        gain = _minus(mean_of(records, row, "novel_pose", "psnr"), baseline)
        found.append(Finding(f"over the paper's baseline, novel pose ({title})", gain, None, 3.0, "dB"))
    one_view = [mean_of(records, row, "novel_view", "psnr") for row in ("views-1", "refined-1")]
    found.append(Finding("1 input view x 8 frames, novel view", *one_view, 27.0, "dB"))
    people = optimised_people(records)
    among = _count(people) or "some people"
    best = mean_of(records, "optimum", "novel_pose", "psnr", people)
    below = [_minus(best, mean_of(records, row, "novel_pose", "psnr", people)) for row in ("ours", "refined")]
    found.append(Finding(f"below the per-person optimum, novel pose ({among})", *below, 3.0, "dB", 2, True))
    for split in SPLITS:
        shares = [_share(records, row, split, people) for row in ("ours", "refined")]
        where = f"closed, in box, {split.replace('_', ' ')} ({among})"
        found.append(Finding(f"of the gap from painted mean colour to that optimum {where}", *shares, 60.0, "%", 0))
    return found


def _share(records: Records, row: str, split: str, people: list[str]) -> float | None:
    """How much of the way from paint to the optimum a row has gone, in per cent of dB in the box."""
    low, own, best = (mean_of(records, name, split, "psnr_box", people) for name in ("mean-color", row, "optimum"))
    return None if None in (low, own, best) or best == low else 100 * (own - low) / (best - low)


def optimised_people(records: Records) -> list[str]:
    """Names of those whose avatars were optimised one by one: some of the test people."""
    return list(records["optimum"]["metrics"]["subjects"]) if "optimum" in records else []


def results_page(records: Records, notes: str = "") -> str:
    """All of docs/results.md; `notes` is Markdown that was written by hand."""
    ours = ["ours", "refined", "mean-color", "vertex-color"]
    bounds = ["mean-color", "ours", "refined", "optimum"]
    people = optimised_people(records)
    inputs = ["views-1", "refined-1", "views-2", "frames-1", "frames-2", "frames-4", "ours", "refined"]
    ablations = [row.name for row in ROWS if row.group == "ablations"]
    return "\n".join(
        [
            INTRODUCTION,
            "## Against the targets\n",
            _markdown(["", "one pass", "refined", "target", "met"], [finding.cells() for finding in findings(records)]),
            f"## The model and its bounds, pictures of {_sizes(records, ours)}\n",
            _section(records, ours, {"ours": "ours, 4 x 8"}),
            f"## The per-person optimum, pictures of {_sizes(records, bounds)}\n",
            f"All rows are means over the same {_count(people) or 'people'}: {', '.join(people) or '-'}.\n",
            _section(records, bounds, {"ours": "ours, 4 x 8"}, people=people),
            f"## Fewer inputs: views x frames, pictures of {_sizes(records, inputs)}\n",
            "All rows are measured by the same pictures, those of all 8 observed frames, however few are shown.\n",
            _section(records, inputs, {"ours": "4 x 8", "refined": "4 x 8, refined"}),
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
    network = settings.get("training", {}).get("model", {})
    for option, name in (("color_sampling", "the second look"), ("feedback", "feedback")):
        if network.get(option):
            differs.append(f"has {name}")
    if shown := settings.get("input", {}).get("image_size"):
        differs.append(f"is shown pictures of {shown} px")
    return (
        f"Each trained from nothing for {trained}, with the same seed and data, and without the second look and "
        "feedback but where these are named. *Pose, dB* is the difference from the full graph. Each was trained once: "
        "what another seed would change has not been measured, so tenths of a dB rank nothing. The last row is our "
        f"model, which {', '.join(differs[:-1])}{' and ' if differs[:-1] else ''}{differs[-1]}.\n"
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
