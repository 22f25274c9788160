"""Time the parts of the project on this machine: python scripts/benchmark.py render [options]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.environment import require

require()

import tyro

from core.benchmarks.animate import animate
from core.benchmarks.data import data
from core.benchmarks.graph import graph
from core.benchmarks.render import render
from core.benchmarks.scaling import scaling
from core.benchmarks.step import step
from core.benchmarks.unet import unet
from core.cli import run

COMMANDS = {
    "animate": animate,
    "data": data,
    "graph": graph,
    "render": render,
    "scaling": scaling,
    "step": step,
    "unet": unet,
}

if __name__ == "__main__":
    run(lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS))
