"""Devices, processes, number formats and the network of a training run."""

import copy
import logging
import os

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from core.checkpoint import Training, load_weights, read_metadata, read_trainings
from core.model.hgg import HumanGaussianGraph
from core.options import TrainOptions
from core.utils.device import pick_device
from smpl_renderer.body_model import BodyModel
from smpl_renderer.connectivity import load_connectivity
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

SEVERAL_CPU_PROCESSES = (
    "for several on CPUs, set distributed_type: MULTI_GPU in the configuration and ACCELERATE_USE_CPU=true in the "
    "environment"
)
"""Remedy for configurations whose processes are not started."""
OPTIONAL_PARTS = ("color_sampling.", "color_attention.", "feedback.", "graph.patch_attention.")
"""Prefixes of the parameters that an `--init` checkpoint may lack."""


def make_accelerator(options: TrainOptions) -> Accelerator:
    """Devices, processes and precision of a run.

    Raises:
        InputError: If CUDA is requested and not available.
    """
    on_cuda = pick_device(options.device).type == "cuda"
    _warn_of_single_process()
    precision = options.mixed_precision
    if precision == "auto":
        precision = "bf16" if on_cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    # The body's constants are buffers and equal in all processes, so broadcasting them in each step is unnecessary.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=options.accumulate,
        cpu=not on_cuda,
        kwargs_handlers=[ddp],
    )


def _warn_of_single_process() -> None:
    """Log a warning if `accelerate launch` was to start several processes, and has started one.

    Its configurations of the type MULTI_CPU start processes by MPI only.
    """
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if is_launched and not any(name.endswith("WORLD_SIZE") or name == "PMI_SIZE" for name in os.environ):
        logger.warning("trains as one process, though the launcher was given several; %s", SEVERAL_CPU_PROCESSES)


def configure_process(accelerator: Accelerator) -> None:
    """Deterministic sums on the CPU; only the main process logs."""
    if accelerator.device.type != "cuda":
        # Threads would add gradients in no fixed order, and a resumed run would differ in its last digits.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    if not accelerator.is_main_process:
        logging.getLogger().setLevel(logging.ERROR)


def make_model(options: TrainOptions, body: BodyModel, is_resumed: bool) -> tuple[HumanGaussianGraph, list[Training]]:
    """Build the network on the CPU, with the weights of `--init` unless the run is resumed.

    Returns:
        The network, and the trainings behind the checkpoint of `--init`.
    Raises:
        InputError: If a file does not fit the data or the options.
    """
    # A copy, because the network's body moves to the GPU and the dataset's goes to worker processes on the CPU.
    body = copy.deepcopy(body)
    if options.model.graph.neighbors > body.num_vertices:
        raise InputError(
            f"--model.graph.neighbors must be at most {body.num_vertices}, the number of vertices of {body.name}, got "
            f"{options.model.graph.neighbors}"
        )
    connectivity = None if options.connectivity is None else load_connectivity(options.connectivity, body)
    model = HumanGaussianGraph(options.model, body, connectivity)
    trainings: list[Training] = []
    if not is_resumed:
        if options.init is not None:
            trainings = _load_init(model, options)
        elif options.stage == "graph":
            raise InputError("stage graph needs a trained U-Net: give a checkpoint of stage frame with --init")
    model.unet.to(memory_format=torch.channels_last)
    model.unet.use_attention(options.attention)
    model.unet.recompute = options.checkpoint_unet
    model.use_cuda_graphs(options.cuda_graphs, trains_unet=options.stage != "graph")
    model.set_backend(options.backend)
    model.set_nearest_search(options.nearest)
    if options.compile:
        model.unet.compile()
    return model, trainings


def _load_init(model: HumanGaussianGraph, options: TrainOptions) -> list[Training]:
    """Load the weights of `--init`; return the trainings behind them."""
    metadata = read_metadata(options.init)
    # In stage `graph`, the graph may differ from that of the run that trained the U-Net.
    prefix = "unet." if options.stage == "graph" else ""
    for part in load_weights(model, options.init, prefix, OPTIONAL_PARTS):
        logger.info("%s has no part %s: it starts untrained", options.init, part.rstrip("."))
    return read_trainings(metadata)
