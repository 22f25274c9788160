"""Compare two evaluations: python scripts/compare.py A/metrics.json B/metrics.json

Evaluations with different protocols are refused.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import tyro

from core.inference.report import METRICS, SPLITS, Metrics, format_table, read_metrics
from core.utils.cli import run
from smpl_renderer.errors import InputError


def main(a: tyro.conf.Positional[Path], b: tyro.conf.Positional[Path]) -> None:
    """Print the metrics of two evaluations and their differences, for the mean and for every subject.

    Args:
        a: A `metrics.json` of `infer.py --evaluate`, or its folder.
        b: Another one; differences are B minus A.
    """
    first, second = (read_metrics(path / "metrics.json" if path.is_dir() else path) for path in (a, b))
    difference = first_difference(first["settings"]["protocol"], second["settings"]["protocol"])
    if difference is not None:
        name, here, there = difference
        raise InputError(
            f"the protocols differ: {name} is {here} in {a} and {there} in {b}; evaluate both with the same protocol"
        )
    for label, metrics in (("A", first), ("B", second)):
        checkpoint = metrics["settings"]["checkpoint"]
        how = "".join(f", {step}" for step in steps_beside_the_network(metrics["settings"]))
        print(f"{label}: {checkpoint['name']} ({checkpoint['sha256'][:12]}){how}")
    print(format_table(["", "split", *headings()], comparison(first, second)))


def steps_beside_the_network(settings: dict) -> list[str]:
    """What was done to the inputs and to the network's avatar, from the settings of an evaluation."""
    aligned, refined = settings.get("alignment"), settings.get("refinement")
    steps = [f"inputs aligned by {aligned['rounds']} x {aligned['steps']} steps"] if aligned else []
    steps += ["colours completed"] if settings.get("completion") else []
    return steps + ([f"refined by {refined['steps']} steps"] if refined else [])


def first_difference(a: object, b: object, name: str = "protocol") -> tuple[str, object, object] | None:
    """The first entry in which two nested settings differ, with its name and both values; None if they are equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            found = first_difference(a.get(key), b.get(key), f"{name}.{key}")
            if found is not None:
                return found
        return None
    return None if a == b else (name, a, b)


def headings() -> list[str]:
    """Three column headings per metric."""
    return [column for metric in METRICS for column in (f"{metric} A", "B", "B - A")]


def comparison(a: Metrics, b: Metrics) -> list[list]:
    """Rows of the table: the mean, then every subject, each for both splits."""
    rows = []
    pairs = [("mean", a["mean"], b["mean"])]
    pairs += [(subject, a["subjects"][subject], b["subjects"][subject]) for subject in a["subjects"]]
    for label, ours, theirs in pairs:
        for split in SPLITS:
            row = [label, split.replace("_", " ")]
            for metric in METRICS:
                x, y = ours[split].get(metric), theirs[split].get(metric)
                row += [x, y, None if x is None or y is None else y - x]
            rows.append(row)
    return rows


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
