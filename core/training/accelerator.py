"""The devices, processes and number formats to train with."""

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from core.options import TrainOptions
from core.utils.device import pick_device


def make_accelerator(options: TrainOptions) -> Accelerator:
    """The devices and processes to train on.

    Raises:
        InputError: If CUDA is asked for and not there.
    """
    on_cuda = pick_device(options.device).type == "cuda"
    precision = options.mixed_precision
    if precision == "auto":
        precision = "bf16" if on_cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    # The body's constants are buffers: equal everywhere, so there is no need to send them around in each step.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=options.accumulate,
        cpu=not on_cuda,
        kwargs_handlers=[ddp],
    )
