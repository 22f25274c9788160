"""The training loop.

Three rules hold in the loop. Nothing in a step waits for the device: losses stay on it until the next log line.
Everything random follows from the seed, the step, and a subject's position in the order of all, so that an interrupted
run resumes exactly, and so that the distribution of a step's subjects over processes and accumulated batches does not
matter; dropout alone also depends on the process. Files are written by the main process, whole or not at all.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.checkpoint import Training, read_metadata, save_checkpoint
from core.data.dataset import HumanDataset
from core.losses.lpips import load_lpips
from core.options import TrainOptions
from core.training.collapse import CollapseMonitor
from core.training.loading import (
    choose_subjects,
    data_stamp,
    held_out_batches,
    mixed_seed,
    on_device,
    training_batches,
)
from core.training.logs import RunLog, describe_scores, summarize_losses
from core.training.optimizer import finite_step, make_optimizer, one_cycle, restore_optimizer, run_progress, set_lr
from core.training.records import StepRecord, StepRecords
from core.training.run_state import (
    RunState,
    check_agreement,
    check_resumable,
    load_run_state,
    resolve_resume,
    restore_rng,
    rng_state,
    save_run_state,
)
from core.training.setup import configure_process, make_accelerator, make_model
from core.training.step import InputSubset, TrainingStep, sample_input_subset
from core.training.validation import preview, score, validation_data
from core.training.workspace_lock import lock_workspace
from core.types.frames import Sample
from core.utils.aliases import current_parameters
from core.utils.options_json import options_to_json
from core.utils.ranges import check_ranges
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

CLOCK_EVERY = 10
"""Steps between clock readings in a run of limited time. Processes have to agree on each."""


class Trainer:
    """A training run. `run` trains to the end; the results are in `options.workspace`."""

    def __init__(self, options: TrainOptions):
        check_ranges(options)
        self.options = options
        self.accelerator = make_accelerator(options)
        configure_process(self.accelerator)
        resume = resolve_resume(options.resume, options.workspace)
        state = None if resume is None else load_run_state(resume)
        # Processes draw differently (dropout); data-parallel training broadcasts the weights of the main process.
        set_seed(mixed_seed(options.seed, self.accelerator.process_index) % 2**32)

        training, held_out = choose_subjects(options)
        self.dataset = HumanDataset(options.data, training, "train", options.seed)
        self.held_out = None
        if held_out:
            data = validation_data(options.data)
            self.held_out = HumanDataset(data, held_out, "validation", options.seed, self.dataset.body)
        self.stamp = data_stamp(training)
        self.model, self._earlier_trainings = make_model(options, self.dataset.body, is_resumed=state is not None)
        self.module = self._prepare_module()
        self.optimizer = make_optimizer(self.model, options)

        self.step = 0
        self.scores: dict[str, float] = {}
        self.first_scores: dict[str, float] = {}
        self._earlier_seconds = self._seconds = 0.0 if state is None else state.seconds
        self.records = StepRecords(self.accelerator, options.max_bad_steps)
        if state is not None:
            self._restore(state)
        check_agreement(gather_object([(self.step, [entry.subject for entry in training])]))
        # Only now, because wrong options must not create the folder.
        self._lock = lock_workspace(options.workspace) if self.accelerator.is_main_process else None
        self._start = time.monotonic()
        self.log = RunLog(options.workspace, self.step) if self.accelerator.is_main_process else None
        self.collapse_monitor = CollapseMonitor(options)
        self.batches = self._open_batches()
        if state is not None:
            self._restore_rng(state)
        self._log_start(len(training), len(held_out), resume)

    @property
    def _on_cuda(self) -> bool:
        return self.accelerator.device.type == "cuda"

    def run(self) -> None:
        """Train to the end, from the first step or from that of the run state."""
        options = self.options
        self.module.train()
        if self.step == 0:
            self._evaluate()
        done = self._progress()
        if done >= 1 and self.log is not None and not self._has_checkpoint():
            self._save_checkpoint()  # the run was killed between its last state and the checkpoint
        total = options.steps if options.max_minutes is None else None
        bar = tqdm(total=total, initial=self.step, desc="train", unit="step", disable=self.log is None)
        with bar, logging_redirect_tqdm():
            while done < 1:
                self._train_step(done)
                bar.update()
                done = self._progress()
                ends = done >= 1
                if ends or self.step % options.log_every == 0:
                    self._log_steps(bar)
                if ends or self.step % options.image_every == 0:
                    self._log_image()
                if ends or self.step % options.eval_every == 0:
                    self._evaluate()
                if ends or self.step % options.save_every == 0:
                    self._log_steps(bar)
                    self._save()
        if self.log is not None:
            self.log.close()
            summarize_losses(options.workspace)
            if self.scores:
                logger.info("held-out subjects: %s", describe_scores(self.scores, self.first_scores))
        self.accelerator.wait_for_everyone()  # the main process may still be writing
        # Without this, processes may be aborted at exit, because their communication threads are still running.
        self.accelerator.end_training()

    def _train_step(self, done: float) -> None:
        options, accelerator = self.options, self.accelerator
        lr = options.lr * one_cycle(done, options.warmup)
        set_lr(self.optimizer, lr)
        subset = self._sample_input_subset()
        reports, names = [], []
        for _ in range(options.accumulate):
            sample = next(self.batches).unpack()
            with accelerator.accumulate(self.module):
                loss, report = self.module(sample, subset, done >= options.loss.lpips_from)
                # A non-finite loss may have finite gradients, if nothing is rendered at the bad pixel. A first gradient
                # of NaN (0 x inf is NaN, too) spreads to the gradients of all processes without a synchronisation.
                accelerator.backward(loss, gradient=1 + 0 * loss.detach())
            reports.append(report)
            names.append(sample.names)
        norm = finite_step(self.optimizer, options.clip)
        self.step += 1
        self.records.append(StepRecord(self.step, lr, torch.stack(reports), norm, names))

    def _sample_input_subset(self) -> InputSubset:
        """Input frames and views of this step, the same for all its subjects in all processes.

        A step then does not depend on how its subjects are distributed, and no process has more work than another.
        """
        data = self.options.data
        generator = torch.Generator().manual_seed(mixed_seed(self.options.seed, self.step, 1))
        return sample_input_subset(data.input_frames, len(data.input_views), data, generator)

    def _progress(self) -> float:
        """Progress of the run from 0 to 1, equal in all processes."""
        options = self.options
        if options.max_minutes is not None and self.step % CLOCK_EVERY == 0:
            (self._seconds,) = broadcast_object_list([self.run_seconds()])
        return run_progress(self.step, options.steps, self._seconds, options.max_minutes)

    def run_seconds(self) -> float:
        """Duration of the run so far, earlier parts included."""
        return self._earlier_seconds + time.monotonic() - self._start

    def _evaluate(self) -> None:
        """Measure the held-out subjects, if there are any."""
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
            logger.info("step %d  held-out subjects: %s", self.step, describe_scores(self.scores, self.first_scores))

    def _log_steps(self, bar: tqdm) -> None:
        """Log the steps since the last log line."""
        rows = self.records.flush()
        if not rows or self.log is None:
            return
        self.log.steps(rows)
        self.collapse_monitor.update(rows)
        memory, rate = self._memory(), bar.format_dict["rate"] or float("nan")
        self.log.rates(self.step, {"steps_per_second": rate, "memory_gb": memory})
        mean = {name: sum(row[name] for row in rows) / len(rows) for name in ("loss", "psnr")}
        logger.info(
            "step %d  loss %.4f  PSNR %.2f dB  lr %.1e  %.2f steps/s  %.1f GB",
            *(self.step, mean["loss"], mean["psnr"], rows[-1]["lr"], rate, memory),
        )

    def _memory(self) -> float:
        """Peak GPU memory of the run, or resident memory of the process on a CPU, in gigabytes."""
        if self._on_cuda:
            return torch.cuda.max_memory_allocated() / 1e9
        return psutil.Process().memory_info().rss / 1e9

    def _log_image(self) -> None:
        """Log a preview of the first held-out subject, or of the first training subject."""
        if self.log is None:
            return
        self.model.eval()
        sample = (self.held_out or self.dataset)[0]
        batch = type(sample)(sample.inputs[None], sample.targets[None], sample.names)
        self.log.image(self.step, preview(self.model, batch, self.options, self.accelerator))
        self.module.train()

    def _log_start(self, num_training: int, num_held_out: int, resume: object) -> None:
        if self.log is None:
            return
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad) / 1e6
        logger.info(
            "stage %s: %.1f M parameters, %d training subjects, %d held out; %d x %s, precision %s%s",
            *(self.options.stage, trained, num_training, num_held_out, self.accelerator.num_processes),
            *(self.accelerator.device.type, self.accelerator.mixed_precision),
            "" if resume is None else f"; resumed from {resume}",
        )

    def _prepare_module(self) -> nn.Module:
        """The training step, wrapped for data-parallel training where there are several processes."""
        lpips = load_lpips("vgg") if self.options.loss.lpips > 0 else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its successor is PyTorch 2.14's
            return self.accelerator.prepare_model(TrainingStep(self.model, self.options, lpips))

    def _open_batches(self) -> Iterator[Sample]:
        batches = training_batches(
            self.dataset,
            self.options,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            start=self.step * self.options.accumulate,
            pin_memory=self._on_cuda,
        )
        return on_device(batches, self.accelerator.device)

    def _save(self) -> None:
        """Write the run state and the checkpoint."""
        rng = gather_object([rng_state(self.accelerator.device)])
        if self.log is None:
            return
        state = RunState(
            step=self.step,
            seconds=self.run_seconds(),
            options=options_to_json(self.options),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rng=rng,
            first_scores=self.first_scores,
            bad_steps=self.records.skipped,
            earlier=[asdict(training) for training in self._earlier_trainings],
        )
        save_run_state(self.options.workspace, state, self.options.keep)
        self._save_checkpoint()

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint that this run writes."""
        return self.options.workspace / "model.safetensors"

    def _has_checkpoint(self) -> bool:
        """True if the checkpoint of the current step is there."""
        try:
            return read_metadata(self.checkpoint).get("step") == str(self.step)
        except InputError:
            return False

    def _save_checkpoint(self) -> None:
        options = self.options
        subjects = options.batch_size * options.accumulate * self.accelerator.num_processes
        minutes = self.run_seconds() / 60
        this_training = Training(options.stage, self.step, subjects, options.data.image_size, minutes)
        save_checkpoint(
            self.checkpoint,
            self.model,
            step=self.step,
            data=self.stamp,
            training=options_to_json(replace(options, workspace=TrainOptions.workspace, resume=TrainOptions.resume)),
            trainings=[*self._earlier_trainings, this_training],
            dtype=getattr(torch, options.checkpoint_dtype),
        )

    def _restore(self, state: RunState) -> None:
        check_resumable(state, self.options, self.accelerator.num_processes)
        self.model.load_state_dict(current_parameters(state.model))
        restore_optimizer(self.optimizer, state.optimizer)
        self.step, self.records.skipped, self.first_scores = state.step, state.bad_steps, state.first_scores
        self._earlier_trainings = [Training.from_dict(values) for values in state.earlier]

    def _restore_rng(self, state: RunState) -> None:
        """Restore the random generators of this process, which only dropout uses."""
        if len(state.rng) == self.accelerator.num_processes:
            restore_rng(state.rng[self.accelerator.process_index], self.accelerator.device)
        elif self.options.model.graph.dropout > 0:
            logger.warning("the run state is of %d processes: dropout resumes with other random values", len(state.rng))
