"""SeqIO tasks over files that a gin file names, and over the paper's data sets.

Each function registers a task and returns its name, so that gin can use it wherever a
task's name is expected::

    from t5patches import tasks

    MIXTURE_OR_TASK_NAME = @tasks.text_task()
    tasks.text_task:
        name = 'comments'
        files = {'train': 'data/train.jsonl', 'validation': 'data/validation.jsonl'}
        vocabulary = %VOCABULARY

`t5patches.tasks.public` registers the public data sets by name when it is imported.
"""

from .annotated import (
    annotated_task,
    find_alternatives,
    find_unwanted_sets,
    outputs_task,
)
from .comments import civil_comments_spans_task, civil_comments_task
from .texts import text_task, xsum_task

__all__ = [
    "annotated_task",
    "civil_comments_spans_task",
    "civil_comments_task",
    "find_alternatives",
    "find_unwanted_sets",
    "outputs_task",
    "text_task",
    "xsum_task",
]
