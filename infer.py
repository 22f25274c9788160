"""Make avatars of captures, videos and images: python infer.py [path] [--checkpoint FILE] [--evaluate], see --help."""

from core.utils.environment import require

require()

import tyro

from core.inference.options import InferenceOptions
from core.utils.cli import command_line, run
from core.utils.ranges import check_ranges


def main(options):  # type: (InferenceOptions) -> None
    """Write avatar, videos and sheet of every subject and, with --evaluate, the metrics of all."""
    check_ranges(options)
    from core.inference.run import run_inference  # imports PyTorch, for which neither --help nor a wrong option waits

    run_inference(options)


if __name__ == "__main__":
    run(lambda: main(tyro.cli(InferenceOptions, args=command_line(), config=(tyro.conf.FlagCreatePairsOff,))))
