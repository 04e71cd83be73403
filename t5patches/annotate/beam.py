"""Annotating on Apache Beam: each file of a `job.Job` is a task of a pipeline.

Every runner that Beam has will do; paths must be ones that its workers can read and
write (`gs://…`), and what the annotator loads must be there, too. Output is, byte for
byte, that of `job.annotate_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import logging

from t5patches.annotate.job import Job
from t5patches.errors import UserError

try:
    import apache_beam
    from apache_beam.options import pipeline_options
except ImportError as error:
    raise UserError(
        "Apache Beam is not installed; install it with `pip install t5patches[beam]`"
    ) from error


def run(job: Job, flags: Sequence[str]) -> dict[str, Any]:
    """Does what `job.run` does, on a Beam runner.

    Args:
      job: its annotator and its vocabulary must be picklable.
      flags: Beam's, e.g. ['--runner=DataflowRunner', '--project=p', '--region=r'].

    Raises:
      UserError: as there. The files without a wrong line are done by then.
    """
    options = pipeline_options.PipelineOptions(list(flags))
    with job.lock(), apache_beam.Pipeline(options=options) as pipeline:
        indices = pipeline | "Files" >> apache_beam.Create(range(len(job.paths)))
        spread = indices | "Spread" >> apache_beam.Reshuffle()
        _ = spread | "Annotate" >> apache_beam.Map(_annotate_shard, job)
    return job.run()


def _annotate_shard(index: int, job: Job) -> None:
    """Annotates a file; one with a wrong line is left for the end.

    Beam would try it again and again. It is not done, so `Job.run` meets the wrong line
    anew, where its error reaches the user.
    """
    try:
        job.run_shard(index)
    except UserError as error:
        logging.error("%s", error)
