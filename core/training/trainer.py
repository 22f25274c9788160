"""A training run: everything that `main.py` does once the options are known.

The loop keeps to three rules. Nothing in a step waits for the device: losses stay on it until the next log line.
Whatever is random follows from the seed, the number of the step and a person's place in the order of all, so that a run
that was interrupted goes on exactly, and so that it does not matter how the persons of a step are shared out among
processes and parts (`accumulate`). Dropout alone also depends on the process. Files are written by the main process,
whole or not at all.
"""

import copy
import logging
import math
import warnings
from dataclasses import asdict, dataclass

import psutil
import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.checkpoint import Training, load_weights, read_metadata, read_trainings, save_checkpoint
from core.data.dataset import HumanDataset
from core.losses.lpips import load_lpips
from core.model.hgg import HumanGaussianGraph
from core.options import TrainOptions
from core.training.accelerator import make_accelerator
from core.training.checks import check_agreement, check_options, resume_signature
from core.training.collapse import CollapseIndicator
from core.training.loading import choose_subjects, data_stamp, held_out_batches, on_device, training_batches
from core.training.logs import COLUMNS, RunLog, read_rows
from core.training.optimizer import finite_step, make_optimizer, restore_optimizer, set_lr
from core.training.order import mixed_seed
from core.training.run_state import (
    RunState,
    load_run_state,
    resolve_resume,
    restore_rng,
    rng_state,
    save_run_state,
)
from core.training.schedule import Stopwatch, one_cycle, progress
from core.training.step import InputSubset, TrainingStep, sample_input_subset
from core.training.validation import preview, score, validation_data
from core.utils.aliases import current_parameters
from core.utils.options_json import options_from_json, options_to_json
from smpl_renderer.connectivity import load_connectivity
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

CLOCK_EVERY = 10
"""Steps between two looks at the clock in a run of limited time, at which processes have to agree."""
ADDITIONS = ("color_sampling.", "feedback.")
"""Parts of the network that a checkpoint to begin with (`--init`) may lack."""


@dataclass(frozen=True)
class StepRecord:
    """What is remembered of a step until the next log line."""

    step: int
    lr: float
    reports: Tensor
    """[accumulate, len(TERMS)] of its parts in this process, on the device."""
    norm: Tensor
    """Of the gradient, on the device."""
    names: list[list[str]]
    """Of its samples in this process, part by part."""


class Trainer:
    """One run. `run` trains and returns; what it leaves is in `options.workspace`."""

    def __init__(self, options: TrainOptions):
        check_options(options)
        self.options = options
        self.accelerator = make_accelerator(options)
        if not self._on_cuda:
            # Threads would add gradients in no fixed order, and a resumed run would differ in its last digits.
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False
        if not self.accelerator.is_main_process:
            logging.getLogger().setLevel(logging.ERROR)  # the main process speaks for all
        resume = resolve_resume(options.resume, options.workspace)
        state = None if resume is None else load_run_state(resume)
        # Every process draws differently (dropout); the weights are those of the main process.
        set_seed(mixed_seed(options.seed, self.accelerator.process_index) % 2**32)

        training, held_out = choose_subjects(options)
        self.dataset = HumanDataset(options.data, training, "train", options.seed)
        self.held_out = None
        if held_out:
            data = validation_data(options.data)
            self.held_out = HumanDataset(data, held_out, "validation", options.seed, self.dataset.body)
        self.stamp = data_stamp(training)

        self._earlier: list[Training] = []  # behind the checkpoint that the run began from
        self.model = self._make_model(is_resumed=state is not None)
        lpips = load_lpips("vgg") if options.loss.lpips > 0 else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its successor is PyTorch 2.14's
            self.module = self.accelerator.prepare_model(TrainingStep(self.model, options, lpips))
        self.optimizer = make_optimizer(self.model, options)

        self.step = self.bad_steps = 0
        self.first_scores: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self._pending: list[StepRecord] = []  # since the last log line
        self._seconds = 0.0 if state is None else state.seconds  # at the last look at the clock
        if state is not None:
            self._restore(state)
        check_agreement(gather_object([(self.step, [entry.subject for entry in training])]))
        self.clock = Stopwatch(0.0 if state is None else state.seconds)
        self.log = RunLog(options.workspace, self.step) if self.accelerator.is_main_process else None
        self.collapse_indicator = CollapseIndicator(options)
        batches = training_batches(
            self.dataset,
            options,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            start=self.step * options.accumulate,
            pin_memory=self._on_cuda,
        )
        self.batches = on_device(batches, self.accelerator.device)
        if state is not None:
            self._restore_rng(state)
        self._announce(len(training), len(held_out), resume)

    @property
    def _on_cuda(self) -> bool:
        return self.accelerator.device.type == "cuda"

    def run(self) -> None:
        """Train to the end, from the beginning or from where the run was resumed."""
        options = self.options
        self.module.train()
        if self.step == 0:
            self._evaluate()
        done = self._progress()
        total = options.steps if options.max_minutes is None else None
        bar = tqdm(total=total, initial=self.step, desc="train", unit="step", disable=self.log is None)
        with bar, logging_redirect_tqdm():
            while done < 1:
                self._train_step(done)
                bar.update()
                done = self._progress()
                ends = done >= 1
                if ends or self.step % options.log_every == 0:
                    self._flush(bar)
                if ends or self.step % options.image_every == 0:
                    self._log_image()
                if ends or self.step % options.eval_every == 0:
                    self._evaluate()
                if ends or self.step % options.save_every == 0:
                    self._flush(bar)
                    self._save()
        self._summarize()
        self.accelerator.wait_for_everyone()  # the main process may still be writing
        # Processes that leave without this may be aborted: their communication threads are still running.
        self.accelerator.end_training()

    def _make_model(self, is_resumed: bool) -> HumanGaussianGraph:
        options = self.options
        # A copy: this one moves to the GPU, and the dataset's own goes to worker processes, which cannot follow there.
        body = copy.deepcopy(self.dataset.body)
        connectivity = None if options.connectivity is None else load_connectivity(options.connectivity, body)
        model = HumanGaussianGraph(options.model, body, connectivity)
        if options.init is not None and not is_resumed:
            trained_on = read_metadata(options.init)
            if trained_on["body"] != model.body.fingerprint:
                raise InputError(
                    f"--init {options.init} was trained on the body {trained_on['body_name']}, but the data is "
                    f"made with {model.body.name}; choose the checkpoint or the data"
                )
            self._earlier = read_trainings(trained_on)
            # The graph may differ from that of the run that trained the U-Net.
            prefix = "unet." if options.stage == "graph" else ""
            for part in load_weights(model, options.init, prefix, ADDITIONS):
                logger.info("%s has no part %s: it begins untrained", options.init, part.rstrip("."))
        elif options.stage == "graph" and not is_resumed:
            raise InputError("stage graph trains on a finished U-Net: give a checkpoint of stage frame with --init")
        model.unet.to(memory_format=torch.channels_last)
        model.unet.use_attention(options.attention)
        model.unet.recompute = options.checkpoint_unet
        model.use_cuda_graphs(options.cuda_graphs, trains_unet=options.stage != "graph")
        model.set_backend(options.backend)
        if options.compile:
            model.unet.compile()
        return model

    def _progress(self) -> float:
        """How far the run is, the same number in every process."""
        options = self.options
        if options.max_minutes is None:
            return progress(self.step, options.steps, 0.0, None)
        if self.step % CLOCK_EVERY == 0:
            (self._seconds,) = broadcast_object_list([self.clock.seconds()])
        return progress(self.step, options.steps, self._seconds, options.max_minutes)

    def _train_step(self, done: float) -> None:
        options, accelerator = self.options, self.accelerator
        lr = options.lr * one_cycle(done, options.warmup)
        set_lr(self.optimizer, lr)
        shown = self._sample_input_subset()
        reports, names = [], []
        for _ in range(options.accumulate):
            sample = next(self.batches).unpack()
            with accelerator.accumulate(self.module):
                loss, report = self.module(sample, shown, done >= options.loss.lpips_from)
                # A loss that is not finite may have finite gradients, if nothing is drawn at the bad pixel. Begun with
                # NaN (0 x inf is NaN, too) the gradients say so in every process, and nobody waits to look.
                accelerator.backward(loss, gradient=1 + 0 * loss.detach())
            reports.append(report)
            names.append(sample.names)
        norm = finite_step(self.optimizer, options.clip)
        self.step += 1
        self._pending.append(StepRecord(self.step, lr, torch.stack(reports), norm, names))

    def _sample_input_subset(self) -> InputSubset:
        """Frames and views of this step: one draw for all its persons, in all processes.

        So a step is the same however its persons are shared out, and no process waits for one that has more to do.
        """
        data = self.options.data
        drawing = torch.Generator().manual_seed(mixed_seed(self.options.seed, self.step, 1))
        return sample_input_subset(data.input_frames, len(data.input_views), data, drawing)

    def _flush(self, bar: tqdm) -> None:
        """Bring the reports since the last log line from the device, log them, and look for steps that were skipped."""
        if not self._pending:
            return
        losses = torch.stack([record.reports for record in self._pending]).mean(1)
        norms = torch.stack([record.norm for record in self._pending])
        means = self.accelerator.reduce(torch.cat([losses, norms[:, None]], 1), "mean").tolist()
        rows = [dict(zip(COLUMNS, (r.step, r.lr, *numbers))) for r, numbers in zip(self._pending, means)]
        self._check_finite(rows)
        if self.log is not None:
            self.log.steps(rows)
            self.collapse_indicator.look(rows)
            memory = self._memory()
            rate = bar.format_dict["rate"] or float("nan")
            self.log.rates(self.step, {"steps_per_second": rate, "memory_gb": memory})
            mean = {name: sum(row[name] for row in rows) / len(rows) for name in ("loss", "psnr")}
            logger.info(
                "step %d  loss %.4f  PSNR %.2f dB  lr %.1e  %.2f steps/s  %.1f GB",
                *(self.step, mean["loss"], mean["psnr"], rows[-1]["lr"], rate, memory),
            )
        self._pending.clear()

    def _check_finite(self, rows: list[dict[str, float]]) -> None:
        """Count the steps that were skipped.

        Raises:
            InputError: If they are too many.
        """
        bad = [i for i, row in enumerate(rows) if not abs(row["grad_norm"]) < float("inf")]
        if not bad:
            return
        self.bad_steps += len(bad)
        samples = self._suspects([self._pending[i] for i in bad])
        steps = ", ".join(str(rows[i]["step"]) for i in bad)
        logger.warning("skipped step %s: the loss or its gradient is not finite; samples %s", steps, " ".join(samples))
        if self.bad_steps > self.options.max_bad_steps:
            raise InputError(
                f"{self.bad_steps} steps had losses or gradients that are not finite, the last ones on "
                f"{' '.join(samples)}: check these samples, or lower --lr"
            )

    def _suspects(self, records: list[StepRecord]) -> list[str]:
        """Samples of the parts whose loss is not finite, each of `batch_size` persons; all samples of these steps where
        every loss is finite and a gradient is not."""
        suspects, others = set(), set()
        for record in records:
            for loss, names in zip(record.reports[:, 0].tolist(), record.names, strict=True):
                (others if math.isfinite(loss) else suspects).update(names)
        suspects, others = (set().union(*x) for x in zip(*gather_object([(suspects, others)])))
        return sorted(suspects or others)

    def _memory(self) -> float:
        """Gigabytes: the most that was in use on the GPU, or what the process uses now."""
        if self._on_cuda:
            return torch.cuda.max_memory_allocated() / 1e9
        return psutil.Process().memory_info().rss / 1e9

    def _evaluate(self) -> None:
        """Measure the held-out persons, if there are any; the first time says where training began."""
        if self.held_out is None:
            return
        self.model.eval()
        accelerator = self.accelerator
        batches = held_out_batches(self.held_out, self.options, accelerator.process_index, accelerator.num_processes)
        self.scores = score(self.model, batches, self.options, accelerator)
        self.module.train()
        if self.step == 0:
            self.first_scores = self.scores
        if self.log is not None:
            self.log.scores(self.step, self.scores)
            logger.info("step %d  held-out persons: %s", self.step, self._describe_scores())

    def _describe_scores(self) -> str:
        words = []
        for name in ("novel_view", "novel_pose"):
            if name not in self.scores:
                continue
            words.append(f"{name.replace('_', ' ')} {self.scores[name]:.2f} dB")
            if self.step > 0 and name in self.first_scores:
                words[-1] += f" ({self.scores[name] - self.first_scores[name]:+.2f} since the start)"
        return ", ".join(words)

    def _log_image(self) -> None:
        if self.log is None:
            return
        self.model.eval()
        sample = (self.held_out or self.dataset)[0]
        batch = type(sample)(sample.inputs[None], sample.targets[None], sample.names)
        self.log.image(self.step, preview(self.model, batch, self.options, self.accelerator))
        self.module.train()

    def _save(self) -> None:
        """Write the run state and the checkpoint."""
        rng = gather_object([rng_state(self.accelerator.device)])
        if self.log is None:
            return
        options, seconds = self.options, self.clock.seconds()
        text = options_to_json(options)
        persons = options.batch_size * options.accumulate * self.accelerator.num_processes
        own = Training(options.stage, self.step, persons, options.data.image_size, seconds / 60)
        state = RunState(
            step=self.step,
            seconds=seconds,
            options=text,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rng=rng,
            first_scores=self.first_scores,
            bad_steps=self.bad_steps,
            earlier=[asdict(training) for training in self._earlier],
        )
        save_run_state(options.workspace, state, options.keep)
        save_checkpoint(
            options.workspace / "model.safetensors",
            self.model,
            step=self.step,
            data=self.stamp,
            training=text,
            trainings=[*self._earlier, own],
            dtype=getattr(torch, options.checkpoint_dtype),
        )

    def _restore(self, state: RunState) -> None:
        source = f"the run state of step {state.step}"
        earlier = options_from_json(TrainOptions, state.options, source)
        if (earlier.model, earlier.stage) != (self.options.model, self.options.stage):
            raise InputError(
                f"{source} is of another network or stage; use the options it was made with, or --resume none"
            )
        if resume_signature(earlier, len(state.rng)) != resume_signature(self.options, self.accelerator.num_processes):
            logger.warning("some options differ from those of %s: the run goes on, but not as it would have", source)
        self.model.load_state_dict(current_parameters(state.model))
        restore_optimizer(self.optimizer, state.optimizer)
        self.step, self.bad_steps, self.first_scores = state.step, state.bad_steps, state.first_scores
        self._earlier = [Training(**training) for training in state.earlier]

    def _restore_rng(self, state: RunState) -> None:
        """Dropout's random numbers, which are the only ones that belong to a process."""
        if len(state.rng) == self.accelerator.num_processes:
            restore_rng(state.rng[self.accelerator.process_index], self.accelerator.device)
        elif self.options.model.graph.dropout > 0:
            logger.warning(
                "the run state is of %d processes: dropout goes on with other random numbers", len(state.rng)
            )

    def _announce(self, num_training: int, num_held_out: int, resume: object) -> None:
        if self.log is None:
            return
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad) / 1e6
        logger.info(
            "stage %s: %.1f M parameters, %d persons to train on, %d held out; %d x %s, precision %s%s",
            *(self.options.stage, trained, num_training, num_held_out, self.accelerator.num_processes),
            *(self.accelerator.device.type, self.accelerator.mixed_precision),
            "" if resume is None else f"; resumed from {resume}",
        )

    def _summarize(self) -> None:
        if self.log is None:
            return
        self.log.close()
        losses = [row["loss"] for row in read_rows(self.options.workspace / "log.csv")]
        span = min(50, len(losses))
        first, last = sum(losses[:span]) / span, sum(losses[-span:]) / span
        logger.info("mean loss of the first %d steps %.4f, of the last %.4f (x %.2f)", span, first, last, last / first)
        if self.scores:
            logger.info("held-out persons: %s", self._describe_scores())
