"""Train Human Gaussian Graph. `bash train.sh` runs this on all visible GPUs, or on the CPU."""

from core.utils.environment import require

require()

import logging
import shlex

import tyro

from core.options import PRESETS, TrainOptions  # noqa: F401 - in a comment with types, which Python 2.7 can parse
from core.training.rank_monitor import run_distributed
from core.training.trainer import Trainer
from core.utils.cli import command_line

logger = logging.getLogger("main")


def main(options):  # type: (TrainOptions) -> None
    """Train, and log the path of the checkpoint."""
    trainer = Trainer(options)
    trainer.run()
    if trainer.accelerator.is_main_process:
        checkpoint = options.workspace / "model.safetensors"
        logger.info("checkpoint: %s", checkpoint)
        logger.info("next: python infer.py <capture> --checkpoint %s --evaluate", shlex.quote(str(checkpoint)))


if __name__ == "__main__":
    run_distributed(lambda: main(tyro.extras.overridable_config_cli(PRESETS, description=__doc__, args=command_line())))
