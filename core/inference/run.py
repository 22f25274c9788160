"""The run of `infer.py`: from a capture, or what one is made of, to the results of all subjects."""

import logging
import os
import sys
from dataclasses import asdict, replace
from functools import partial

import torch

from core.capture.sources import is_capture_input
from core.data.input_files import subject_name
from core.inference.duration import AVATAR, LOADING, RESULTS, avatar_costs
from core.inference.evaluation import OURS, MetricSuite, evaluate, protocol_record
from core.inference.options import InferenceOptions
from core.inference.outputs import check_folder, write_outputs
from core.inference.report import Metrics, metrics_table, summarise, write_metrics
from core.inference.result_page import write_index_page
from core.inference.session import Session, open_session, session_settings
from core.inference.subject import open_subject
from core.utils.time_estimate import TimeEstimate, log_revision

logger = logging.getLogger(__name__)


@torch.no_grad()
def run_inference(options: InferenceOptions) -> None:
    """Write avatar, videos and sheet of every subject and, with --evaluate, the metrics of all.

    Raises:
        InputError: If an option, a capture or the checkpoint cannot be used.
    """
    estimate = TimeEstimate()
    is_own = is_capture_input(options.captures)
    if is_own:
        from core.capture.prepare import capture_of

        further = partial(avatar_costs, options)
        with torch.enable_grad():  # bodies are fitted by gradients
            capture = capture_of(options.captures, options.workspace, options.prepare, estimate, further)
        options = replace(options, captures=capture)
    with estimate.stage(LOADING):
        session = open_session(options)
    if session.device.type == "cuda":
        # Atomic additions make sums differ in their last digits from run to run. The only ones left are in the
        # rasterizer's gradients, which feedback and refinement use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    for path in session.subjects:
        check_folder(options.workspace / subject_name(path))
    metric_suite = MetricSuite(session.device) if options.evaluate else None

    scores, records, alignments = {}, {}, {}
    for path in session.subjects:
        with estimate.stage(AVATAR):
            subject = open_subject(session, path)
        if is_own:
            log_revision(estimate)
        with estimate.stage(RESULTS):
            write_outputs(subject, options.workspace / subject.name)
        logger.info("wrote %s", options.workspace / subject.name)
        if metric_suite is not None:
            scores[subject.name] = evaluate(subject, metric_suite)
            records[subject.name] = protocol_record(subject)
            if subject.aligned is not None:
                alignments[subject.name] = subject.aligned.report

    metrics = _write_metrics(session, scores, records, alignments) if metric_suite is not None else None
    page = options.workspace / "index.html"
    write_index_page(page, [subject_name(path) for path in session.subjects], metrics)
    logger.info("open %s", page)


def _write_metrics(
    session: Session, scores: dict[str, dict], records: dict[str, dict], alignments: dict[str, dict]
) -> Metrics:
    """Write `metrics.json` and print its table; the metrics.

    Args:
        scores: For each subject, the measurements of each method.
        records: For each subject, the frames and cameras that were used.
        alignments: For each subject whose inputs were aligned, what was moved.
    """
    by_method = {
        method: summarise({name: methods[method] for name, methods in scores.items()})
        for method in next(iter(scores.values()))
    }
    protocol = session.protocol
    size_and_crop = {"name": protocol.name, "image_size": protocol.image_size, "crop": protocol.crop}
    metrics = by_method.pop(OURS)
    metrics["baselines"] = by_method
    metrics["settings"] = {"protocol": size_and_crop | {"subjects": records}, **session_settings(session)}
    if alignments:
        metrics["settings"]["alignment"] = asdict(session.aligner.options) | {"subjects": alignments}
    path = session.options.workspace / "metrics.json"
    write_metrics(path, metrics)
    sys.stdout.write(metrics_table(metrics) + "\n")
    logger.info("wrote %s", path)
    return metrics
