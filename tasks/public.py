"""Tasks by name, for whoever names tasks rather than files.

Importing this module registers `xsum`, `civil_comments` and `civil_comments_spans` over
TFDS's copies, with the vocabulary of the public T5 checkpoints. T5X imports it for
`--gin.MIXTURE_OR_TASK_MODULE="'t5patches.tasks.public'"`, and
`seqio_cache_tasks --module_import=t5patches.tasks.public --tasks=xsum` for caching.

Annotated generations are one's own, and so is a module that names them::

    from t5patches import tasks
    from t5patches.tasks import public

    tasks.annotated_task(
        "annotated_xsum", {"train": "annotated/train/annotated"}, public.VOCABULARY
    )
"""

from t5patches.interchange.vocabularies import SentencePieceVocabulary

from .comments import civil_comments_spans_task, civil_comments_task
from .metrics import exact_match, rouge
from .texts import xsum_task

VOCABULARY = SentencePieceVocabulary(
    "gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model"
)

XSUM = xsum_task("xsum", VOCABULARY, metric_fns=[rouge, exact_match])
CIVIL_COMMENTS = civil_comments_task(
    "civil_comments", VOCABULARY, metric_fns=[exact_match]
)
CIVIL_COMMENTS_SPANS = civil_comments_spans_task("civil_comments_spans", VOCABULARY)
