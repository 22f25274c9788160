"""The loop over rows: what is there stays, what fails does not stop the others."""

import gc
import logging
import sys

import torch

from scripts.results.bench import Bench
from scripts.results.options import ResultsOptions, check_options
from scripts.results.records import is_current, read_record, write_record
from scripts.results.rows import ROWS, choose_rows
from scripts.results.table import read_records, write_page
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


def measure_rows(options: ResultsOptions) -> list[str]:
    """Measure the rows that were asked for and are not there, and write the table after each.

    Returns:
        The names of the rows that failed.
    Raises:
        InputError: If a row is unknown, a count is of nothing, or a file among the records is none.
    """
    check_options(options)
    rows, folder, bench = choose_rows(options.rows), options.out, Bench(options)
    read_records(folder)  # hours may be spent before the page needs them all
    failed = []
    for row in rows:
        try:
            settings = row.settings(bench)
            if not options.again and is_current(read_record(folder, row.name), settings):
                logger.info("%s: is there", row.name)
                continue
            logger.info("%s: %s", row.name, row.title)
            measured = row.measure(bench)
        # A row may fail in any way, and others are worth measuring: all are named at the end, with exit status 1.
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
        _tidy()
    page = write_page(folder)
    logger.info("wrote %s", page)
    sys.stdout.write(page.read_text(encoding="utf-8"))
    return failed


def list_rows(options: ResultsOptions) -> str:
    """A line for each row: its group, and when it was measured."""
    lines = []
    for row in ROWS:
        record = read_record(options.out, row.name)
        state = "-" if record is None else f"{record['date']}, {record['commit']}"
        lines.append(f"{row.name:14} {row.group:10} {state:24} {row.title}")
    return "\n".join(lines) + "\n"


def _summary(mean: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{split.replace('_', ' ')} {scores['psnr']:.2f} dB" for split, scores in mean.items() if scores)


def _tidy() -> None:
    """Give back what a row held on the GPU: the next one may need it, and so may another process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
