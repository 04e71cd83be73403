"""Annotating on Apache Beam: `job.annotate_files` with each file a task of a pipeline.

Every runner that Beam has will do; paths must be ones that its workers can read and
write (`gs://…`), and what the annotator loads must be there, too. Output is, byte for
byte, that of `job.annotate_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath

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
      predictions, annotator, output_dir, vocabulary: as there; the annotator and the
        vocabulary must be picklable.
      flags: Beam's, e.g. ['--runner=DataflowRunner', '--project=p', '--region=r'].
      **options: `settings`, `only_annotated`, `feature_lengths`, `on_error` as there.

    Raises:
      UserError: as there. The files without a wrong line are done by then.
    """
    job = Job.start(predictions, annotator, output_dir, vocabulary, **options)
    beam_options = pipeline_options.PipelineOptions(list(flags))
    with apache_beam.Pipeline(options=beam_options) as pipeline:
        indices = pipeline | "Files" >> apache_beam.Create(range(len(job.paths)))
        spread = indices | "Spread" >> apache_beam.Reshuffle()
        _ = spread | "Annotate" >> apache_beam.ParDo(_AnnotateShard(job))
    errors = [error for index in range(len(job.paths)) if (error := _error(job, index))]
    if errors:
        raise UserError(errors[0])
    return job.finish()


class _AnnotateShard(apache_beam.DoFn):
    """Annotates a file. A user's error must not be tried again, so it is written."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, index: int) -> None:
        _error(self._job, index)  # Of an earlier call that ended before it was told.
        try:
            self._job.run_shard(index)
        except UserError as error:
            with shards.atomic_write(_error_path(self._job, index)) as file:
                file.write(str(error))


def _error_path(job: Job, index: int) -> epath.Path:
    return epath.Path(job.folder) / f".error-{index:05d}"


def _error(job: Job, index: int) -> str:
    """Returns the error of a file, if it had one, and takes it away."""
    path = _error_path(job, index)
    if not path.is_file():
        return ""
    text = path.read_text()
    path.unlink()
    epath.Path(shards.completion_marker(path)).unlink(missing_ok=True)
    return text
