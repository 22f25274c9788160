"""Measure the rows of docs/results.md: python scripts/results.py --root benchmark --checkpoint model.safetensors"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
from dataclasses import replace

import tyro

from core.utils.cli import run
from scripts.results.curves import write_curves
from scripts.results.findings import read_records
from scripts.results.images import write_images
from scripts.results.options import ResultsOptions
from scripts.results.page import write_excerpt, write_page
from scripts.results.run import list_rows, measure_rows
from smpl_renderer.errors import InputError

logger = logging.getLogger("results")


def main(options: ResultsOptions) -> None:
    """Measure rows and write the page, or one of the other outputs; exit status 1 if a row failed."""
    if options.curves:
        write_curves(options.curves, options.out or Path("docs/curves"))
        return
    if options.images:
        write_images(options, options.out or Path("docs/images"))
        return
    options = replace(options, out=options.out or Path("docs/results"))
    if options.list:
        print(list_rows(options), end="")
        return
    failed = []
    if options.table_only:
        if not read_records(options.out):
            raise InputError(f"{options.out}: contains no records; measure rows, or give their folder by --out")
        logger.info("wrote %s", write_page(options.out))
    else:
        failed = measure_rows(options)
    if options.readme is not None:
        write_excerpt(options.readme, options.out)
    if failed:
        logger.error("failed: %s; run the command again to measure these rows", ", ".join(failed))
        raise SystemExit(1)


if __name__ == "__main__":
    run(lambda: main(tyro.cli(ResultsOptions, config=(tyro.conf.FlagCreatePairsOff,))))
