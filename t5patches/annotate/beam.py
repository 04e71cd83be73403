"""Annotating on Apache Beam: `job.annotate_files` with each file a task of a pipeline.

Every runner that Beam has will do; paths must be ones that its workers can read and
write (`gs://…`), and what the annotator loads must be there, too. Output is, byte for
byte, that of `job.annotate_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import logging

from t5patches.annotate.annotator import Annotator
from t5patches.annotate.job import Job
from t5patches.errors import UserError
from t5patches.interchange import shards

try:
    import apache_beam
    from apache_beam.options import pipeline_options
except ImportError as error:
    raise UserError(
        "Apache Beam is not installed; install it with `pip install t5patches[beam]`"
    ) from error


def annotate_files(
    predictions: shards.PathLike | Sequence[shards.PathLike],
    annotator: Annotator,
    output_dir: shards.PathLike,
    vocabulary: Any,
    *,
    flags: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Annotates predictions as `job.annotate_files` does, on a Beam runner.

    Args:
      predictions, annotator, output_dir, vocabulary: as `Job` takes them; the annotator
        and the vocabulary must be picklable.
      flags: Beam's, e.g. ['--runner=DataflowRunner', '--project=p', '--region=r'].
      **options: `settings`, `only_annotated`, `feature_lengths`, `on_error` of `Job`.

    Raises:
      UserError: as there. The files without a wrong line are done by then.
    """
    job = Job(predictions, annotator, output_dir, vocabulary, **options)
    beam_options = pipeline_options.PipelineOptions(list(flags))
    with apache_beam.Pipeline(options=beam_options) as pipeline:
        indices = pipeline | "Files" >> apache_beam.Create(range(len(job.paths)))
        spread = indices | "Spread" >> apache_beam.Reshuffle()
        _ = spread | "Annotate" >> apache_beam.ParDo(_AnnotateShard(job))
    return job.run()


class _AnnotateShard(apache_beam.DoFn):
    """Annotates a file; one with a wrong line is left for the end.

    Beam would try it again and again. It is not done, so `Job.run` meets the wrong line
    anew, where its error reaches the user.
    """

    def __init__(self, job: Job):
        self._job = job

    def process(self, index: int) -> None:
        try:
            self._job.run_shard(index)
        except UserError as error:
            logging.error("%s", error)
