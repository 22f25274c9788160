"""Measurement of rows. Current records are kept, and a row that fails does not stop the others."""

import gc
import logging
import sys

import torch

from core.utils.ranges import check_ranges
from scripts.results.bench import Bench
from scripts.results.findings import read_records
from scripts.results.options import ResultsOptions
from scripts.results.page import write_page
from scripts.results.records import is_current, read_record, write_record
from scripts.results.rows import ROWS, choose_rows
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


def measure_rows(options: ResultsOptions) -> list[str]:
    """Measure the selected rows that have no current record, and write the page after each.

    Returns:
        Names of the rows that failed.
    Raises:
        InputError: If a row is unknown, an option is out of range, or a file is not a record.
    """
    check_ranges(options)
    rows, folder, bench = choose_rows(options.rows), options.out, Bench(options)
    read_records(folder)  # finds unreadable records before hours of measurements
    failed = []
    for row in rows:
        try:
            settings = row.settings(bench)
            if not options.again and is_current(read_record(folder, row.name), settings):
                logger.info("%s: measured already", row.name)
                continue
            logger.info("%s: %s", row.name, row.title)
            measured = row.measure(bench)
        # Any failure of a row leaves the others to be measured; the caller reports all failures.
        except InputError as error:
            logger.error("%s failed: %s", row.name, error)
            failed.append(row.name)
        except Exception:
            logger.exception("%s failed", row.name)
            failed.append(row.name)
        else:
            origin = {"device": bench.device, "data": bench.data, "commit": options.commit}
            write_record(folder, row.name, settings, measured, **origin)
            write_page(folder)
            logger.info("%s: %s", row.name, _summary(measured.metrics["mean"]))
        _release_memory()
    page = write_page(folder)
    logger.info("wrote %s", page)
    sys.stdout.write(page.read_text(encoding="utf-8"))
    return failed


def list_rows(options: ResultsOptions) -> str:
    """A line per row: name, group, date and commit of its record, title."""
    lines = []
    for row in ROWS:
        record = read_record(options.out, row.name)
        state = "-" if record is None else f"{record['date']}, {record['commit']}"
        lines.append(f"{row.name:14} {row.group:10} {state:24} {row.title}")
    return "\n".join(lines) + "\n"


def _summary(mean: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{split.replace('_', ' ')} {scores['psnr']:.2f} dB" for split, scores in mean.items() if scores)


def _release_memory() -> None:
    """Free the GPU memory of a row, for the next row and for other processes."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
