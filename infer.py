"""Make avatars of captures, videos and images: python infer.py [path] [--checkpoint FILE] [--evaluate], see --help."""

from core.utils.environment import require

require()

import logging
import os
import sys
from dataclasses import replace

import torch
import tyro

from core.capture.prepare import capture_of
from core.capture.sources import is_capture_input
from core.data.input_files import subject_name
from core.inference.evaluation import OURS, MetricSuite, evaluate, protocol_record
from core.inference.options import InferenceOptions
from core.inference.outputs import check_folder, write_outputs
from core.inference.report import metrics_table, summarise, write_metrics
from core.inference.session import open_session, session_settings
from core.inference.subject import open_subject
from core.utils.cli import command_line, run
from core.utils.ranges import check_ranges

logger = logging.getLogger(__name__)


@torch.no_grad()
def main(options: InferenceOptions) -> None:
    """Write avatar, videos and sheet of every subject and, with --evaluate, the metrics of all."""
    check_ranges(options)
    if is_capture_input(options.captures):
        with torch.enable_grad():  # bodies are fitted by gradients
            capture = capture_of(options.captures, options.workspace, options.prepare)
        options = replace(options, captures=capture)
    session = open_session(options)
    if session.device.type == "cuda":
        # Atomic additions make sums differ in their last digits from run to run. The only ones left are in the
        # rasterizer's gradients, which feedback and refinement use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    for path in session.subjects:
        check_folder(options.workspace / subject_name(path))
    metric_suite = MetricSuite(session.device) if options.evaluate else None

    scores, records = {}, {}
    for path in session.subjects:
        subject = open_subject(session, path)
        write_outputs(subject, options.workspace / subject.name)
        logger.info("wrote %s", options.workspace / subject.name)
        if metric_suite is not None:
            scores[subject.name] = evaluate(subject, metric_suite)
            records[subject.name] = protocol_record(subject)

    if metric_suite is not None:
        by_method = {
            method: summarise({name: methods[method] for name, methods in scores.items()})
            for method in next(iter(scores.values()))
        }
        protocol = session.protocol
        size_and_crop = {"name": protocol.name, "image_size": protocol.image_size, "crop": protocol.crop}
        metrics = by_method.pop(OURS)
        metrics["baselines"] = by_method
        metrics["settings"] = {"protocol": size_and_crop | {"subjects": records}, **session_settings(session)}
        write_metrics(options.workspace / "metrics.json", metrics)
        sys.stdout.write(metrics_table(metrics) + "\n")
        logger.info("wrote %s", options.workspace / "metrics.json")


if __name__ == "__main__":
    run(lambda: main(tyro.cli(InferenceOptions, args=command_line(), config=(tyro.conf.FlagCreatePairsOff,))))
