"""Training process of `scripts.benchmarks.scaling`."""

import json
import sys
import time
from pathlib import Path

import torch

from core.options import TrainOptions
from core.training.rank_monitor import run_distributed
from core.training.trainer import Trainer
from core.utils.options_json import options_from_json

WARM_UP = 10


def main(folder: Path, steps: int) -> None:
    """Train with the options in `options.json`; the main process writes `result.json`."""
    options = options_from_json(TrainOptions, (folder / "options.json").read_text(encoding="utf-8"), "options.json")
    trainer = Trainer(options)
    trainer.module.train()
    accelerator, on_cuda = trainer.accelerator, trainer.accelerator.device.type == "cuda"

    def seconds(count: int) -> float:
        accelerator.wait_for_everyone()
        start = time.perf_counter()
        for _ in range(count):
            trainer._train_step(0.5)
        if on_cuda:
            torch.cuda.synchronize()
        accelerator.wait_for_everyone()
        return (time.perf_counter() - start) / count

    seconds(WARM_UP if on_cuda else 1)
    mean = seconds(steps)
    peak = torch.tensor(torch.cuda.max_memory_allocated() / 1e9 if on_cuda else 0.0, device=accelerator.device)
    peak = accelerator.gather(peak).max().item()
    if accelerator.is_main_process:
        result = {"seconds": mean, "peak_gb": peak if on_cuda else None}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    run_distributed(lambda: main(Path(sys.argv[1]), int(sys.argv[2])))
