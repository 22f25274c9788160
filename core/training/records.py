"""Reports of the steps since the last log line: kept on the device, reduced over the processes once per log line."""

import logging
import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from core.training.logs import COLUMNS
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepRecord:
    """One step, as this process computed it."""

    step: int
    lr: float
    reports: Tensor
    """[accumulate, len(TERMS)], one row per accumulated batch, on the device."""
    grad_norm: Tensor
    """Norm of the gradient before clipping, on the device."""
    names: list[list[str]]
    """Names of the samples of each accumulated batch."""


class StepRecords:
    """Records of the steps since the last log line, and the count of skipped steps.

    Attributes:
        skipped: Steps of the run that were skipped because a loss or gradient was not finite.
    """

    def __init__(self, accelerator: Accelerator, max_skipped: int, skipped: int = 0):
        self.accelerator, self.max_skipped, self.skipped = accelerator, max_skipped, skipped
        self._pending: list[StepRecord] = []

    def append(self, record: StepRecord) -> None:
        self._pending.append(record)

    def flush(self) -> list[dict[str, float]]:
        """Return one row of `COLUMNS` per pending record, averaged over the processes, and drop the records.

        All processes have to call this together. It waits for the device.

        Raises:
            InputError: If more steps were skipped than allowed.
        """
        if not self._pending:
            return []
        losses = torch.stack([record.reports for record in self._pending]).mean(1)
        norms = torch.stack([record.grad_norm for record in self._pending])
        means = self.accelerator.reduce(torch.cat([losses, norms[:, None]], 1), "mean").tolist()
        rows = [dict(zip(COLUMNS, (r.step, r.lr, *values))) for r, values in zip(self._pending, means)]
        skipped = [i for i, row in enumerate(rows) if not abs(row["grad_norm"]) < float("inf")]
        if skipped:
            self._report_skipped([self._pending[i] for i in skipped])
        self._pending.clear()
        return rows

    def _report_skipped(self, records: list[StepRecord]) -> None:
        self.skipped += len(records)
        samples = " ".join(self._suspects(records))
        steps = ", ".join(str(record.step) for record in records)
        logger.warning("skipped step %s: the loss or its gradient is not finite; samples %s", steps, samples)
        if self.skipped > self.max_skipped:
            raise InputError(
                f"{self.skipped} steps had losses or gradients that are not finite, the last ones on {samples}: check "
                "these samples, or lower --lr"
            )

    def _suspects(self, records: list[StepRecord]) -> list[str]:
        """Samples of the batches whose loss is not finite; if all losses are finite, all samples of these steps."""
        suspects, others = set(), set()
        for record in records:
            for loss, names in zip(record.reports[:, 0].tolist(), record.names, strict=True):
                (others if math.isfinite(loss) else suspects).update(names)
        suspects, others = (set().union(*x) for x in zip(*gather_object([(suspects, others)])))
        return sorted(suspects or others)
