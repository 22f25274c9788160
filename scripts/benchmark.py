"""Time parts of the project on this machine: python scripts/benchmark.py render [options]"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import tyro

from core.utils.cli import run
from core.utils.ranges import checked
from scripts.benchmarks.animate import animate
from scripts.benchmarks.data import data
from scripts.benchmarks.graph import graph
from scripts.benchmarks.player import player
from scripts.benchmarks.render import render
from scripts.benchmarks.scaling import scaling
from scripts.benchmarks.step import step
from scripts.benchmarks.unet import unet

COMMANDS = {
    "animate": animate,
    "data": data,
    "graph": graph,
    "player": player,
    "render": render,
    "scaling": scaling,
    "step": step,
    "unet": unet,
}

if __name__ == "__main__":
    run(lambda: tyro.extras.subcommand_cli_from_dict({name: checked(command) for name, command in COMMANDS.items()}))
