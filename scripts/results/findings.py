"""Findings from the records: results beside their targets."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.inference.report import SPLITS, mean_metrics
from scripts.results.markdown import MISSING, minus
from scripts.results.records import Record, read_record
from scripts.results.rows import ROWS

Records = dict[str, Record]
"""Records by the names of their rows; rows without a record are missing."""


@dataclass(frozen=True)
class Finding:
    """A result of one pass and of refined avatars, beside its target."""

    title: str
    value: float | None
    """Result of the network alone."""
    refined: float | None
    """Result of its refined avatars."""
    target: float
    unit: str
    decimals: int = 2
    less_is_better: bool = False

    def cells(self) -> list[str]:
        """A row of the table of targets."""
        values = [
            MISSING if x is None else f"{x:.{self.decimals}f} {self.unit}".strip() for x in (self.value, self.refined)
        ]
        sign = "≤" if self.less_is_better else "≥"
        return [self.title, *values, f"{sign} {self.target:g} {self.unit}".strip(), self._verdict()]

    def _verdict(self) -> str:
        if self.value is None and self.refined is None:
            return MISSING
        if self._is_met(self.value):
            return "yes"
        return "refined" if self._is_met(self.refined) else "no"

    def _is_met(self, value: float | None) -> bool:
        return value is not None and (value <= self.target if self.less_is_better else value >= self.target)


def read_records(folder: Path) -> Records:
    """All records of a folder.

    Raises:
        InputError: If a file is not a record.
    """
    found = {row.name: read_record(folder, row.name) for row in ROWS}
    return {name: record for name, record in found.items() if record is not None}


def mean_of(records: Records, row: str, split: str, metric: str, people: Iterable[str] | None = None) -> float | None:
    """A metric of a row, mean over all of its people or over the named ones; None if it was not measured."""
    if row not in records:
        return None
    metrics = records[row]["metrics"]
    if people is None:
        return metrics["mean"][split].get(metric)
    subjects = [metrics["subjects"].get(name, {}).get(split) for name in people]
    return mean_metrics(subjects).get(metric) if subjects and all(subjects) else None


def optimised_people(records: Records) -> list[str]:
    """Names of the test people of the row `optimum`."""
    return list(records["optimum"]["metrics"]["subjects"]) if "optimum" in records else []


def count_people(people: list[str]) -> str:
    """`1 person`, `2 people`; empty for none."""
    return f"{len(people)} {'person' if len(people) == 1 else 'people'}" if people else ""


def findings(records: Records) -> list[Finding]:
    """All results that have a target."""
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
        ("graph", "equal steps, graph only"),
        ("feedback", "equal steps, with image colour sampling and feedback"),
        ("ours-256", "our model, trained for longer"),
    ):
        gain = minus(mean_of(records, row, "novel_pose", "psnr"), baseline)
        found.append(Finding(f"gain over the paper's baseline, novel pose ({title})", gain, None, 3.0, "dB"))
    one_view = [mean_of(records, row, "novel_view", "psnr") for row in ("views-1", "refined-1")]
    found.append(Finding("1 input view x 8 frames, novel view", *one_view, 27.0, "dB"))
    return found + _optimum_findings(records)


def _optimum_findings(records: Records) -> list[Finding]:
    """Results relative to avatars that were optimised on the target images."""
    people = optimised_people(records)
    among = count_people(people) or "some people"
    best = mean_of(records, "optimum", "novel_pose", "psnr", people)
    below = [minus(best, mean_of(records, row, "novel_pose", "psnr", people)) for row in ("ours", "refined")]
    found = [Finding(f"distance to the optimum per subject, novel pose ({among})", *below, 3.0, "dB", 2, True)]
    for split in SPLITS:
        shares = [_gap_closed(records, row, split, people) for row in ("ours", "refined")]
        title = f"share of the gap from mean colour to that optimum, in box, {split.replace('_', ' ')} ({among})"
        found.append(Finding(title, *shares, 60.0, "%", 0))
    return found


def _gap_closed(records: Records, row: str, split: str, people: list[str]) -> float | None:
    """Position of a row between the mean-colour baseline (0) and the optimum (100), in PSNR inside of the box."""
    low, own, best = (mean_of(records, name, split, "psnr_box", people) for name in ("mean-color", row, "optimum"))
    return None if None in (low, own, best) or best == low else 100 * (own - low) / (best - low)
