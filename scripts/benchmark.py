"""Time the parts of the project on this machine: python scripts/benchmark.py render [options]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.environment import require

require()

import tyro

from core.benchmarks.animate import animate
from core.benchmarks.graph import graph
from core.benchmarks.render import render
from core.benchmarks.step import step
from core.benchmarks.unet import unet
from core.cli import run

COMMANDS = {"animate": animate, "render": render, "step": step, "unet": unet, "graph": graph}

if __name__ == "__main__":
    run(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS))
