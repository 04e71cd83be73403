"""SeqIO tasks over files that a gin file names.

Each function registers a task and returns its name, so that gin can use it wherever a
task's name is expected::

    from t5patches import tasks

    MIXTURE_OR_TASK_NAME = @tasks.text_task()
    tasks.text_task:
        name = 'comments'
        files = {'train': 'data/train.jsonl', 'validation': 'data/validation.jsonl'}
        vocabulary = %VOCABULARY
"""

from .files import annotated_task, text_task, truncation

__all__ = ["annotated_task", "text_task", "truncation"]
