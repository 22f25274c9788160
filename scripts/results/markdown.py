"""Markdown tables of numbers that may be missing."""

from core.inference.report import DECIMALS

MISSING = "-"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def metric_cell(value: float | None, metric: str) -> str:
    """A metric, with at most three decimals."""
    return number(value, min(3, DECIMALS[metric]))


def number(value: float | None, decimals: int) -> str:
    """A rounded number."""
    return MISSING if value is None else f"{value:.{decimals}f}"


def signed(value: float | None) -> str:
    """A number with its sign and two decimals."""
    return MISSING if value is None else f"{value:+.2f}"


def minus(a: float | None, b: float | None) -> float | None:
    """The difference of two numbers; None if one is missing."""
    return None if a is None or b is None else a - b
