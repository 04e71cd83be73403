"""spaCy pipelines: loading them, telling them apart, and annotators that run them."""

from __future__ import annotations

import abc
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from t5patches.annotate.alignment import Span
from t5patches.errors import UserError
from t5patches.interchange import claims

BATCH_SIZE = 256


class SpacyAnnotator(abc.ABC):
    """An annotator that runs a spaCy pipeline over batches of texts.

    Attributes:
      source: the pipeline as it was given. One that has a name or a folder is loaded
        anew in another process, and need not travel there.
      nlp: the pipeline.
      batch_size: texts that go through the pipeline together.
    """

    def __init__(self, source: Any, nlp: Any, batch_size: int):
        """Sets the attributes."""
        self.source = source
        self.nlp = nlp
        self.batch_size = batch_size

    def __call__(self, text: str, inputs: str = "") -> list[Span]:
        """Returns the unwanted spans of `text`, a model's output for `inputs`."""
        (spans,) = self.pipe([(text, inputs)])
        return spans

    @abc.abstractmethod
    def pipe(self, pairs: Iterable[tuple[str, str]]) -> Iterator[list[Span]]:
        """Yields the unwanted spans of each (text, inputs)."""


def load(source: Any) -> Any:
    """Returns a spaCy pipeline by its name or folder.

    Args:
      source: the name of an installed package, or a folder; a pipeline is returned as
        it is.

    Raises:
      UserError: the pipeline is missing or does not load.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    import spacy

    text = os.fspath(source)
    if not os.path.exists(text) and (os.sep in text or not spacy.util.is_package(text)):
        hint = "" if os.sep in text else f" with `python -m spacy download {text}`"
        advice = f"install it{hint} or give the folder of one"
        raise UserError(f"{text}: no such spaCy pipeline; {advice}")
    try:
        return spacy.load(text)
    except Exception as error:  # Its own and those of what the pipeline is made of.
        reason = " ".join(str(error).split())
        raise UserError(f"{text}: spaCy cannot load it: {reason}") from error


def digest(nlp: Any) -> str:
    """Tells pipelines apart: by language, name, version, and files or else content.

    Of the files in its folder only those count that spaCy loads, not what `t5patches
    tagger train` writes beside them.
    """
    parts: dict[str, Any] = {k: nlp.meta.get(k) for k in ("lang", "name", "version")}
    if nlp.path is not None:
        loaded = {"config.cfg", "meta.json", "tokenizer", "vocab", *nlp.component_names}
        files = (p for p in sorted(nlp.path.rglob("*")) if p.is_file())
        parts["files"] = claims.file_digest(
            [p for p in files if p.relative_to(nlp.path).parts[0] in loaded]
        )
    else:  # Without its strings, to which every text may add some.
        content = nlp.to_bytes(exclude=["strings"])
        parts["content"] = hashlib.sha256(content).hexdigest()[:16]
    return claims.fingerprint(parts)
