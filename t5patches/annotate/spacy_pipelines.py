"""spaCy pipelines: loading them, and telling them apart."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange import claims


def load(name: str | os.PathLike, advice: str = "") -> Any:
    """Returns a spaCy pipeline by its name or folder.

    Args:
      name: of an installed package, or a folder.
      advice: what to do where there is none; to install it if "".

    Raises:
      UserError: spaCy or the pipeline is missing or does not load.
    """
    try:
        import spacy
    except ImportError as error:
        raise UserError(
            "spaCy is not installed; install it with `pip install spacy`"
        ) from error
    text = os.fspath(name)
    if not os.path.exists(text) and (os.sep in text or not spacy.util.is_package(text)):
        hint = "" if os.sep in text else f" with `python -m spacy download {text}`"
        advice = advice or f"install it{hint} or give the folder of one"
        raise UserError(f"{text}: no such spaCy pipeline; {advice}")
    try:
        return spacy.load(text)
    except Exception as error:  # Its own and those of what the pipeline is made of.
        raise UserError(f"{text}: spaCy cannot load it: {error}") from error


def digest(nlp: Any) -> str:
    """Tells pipelines apart: by language, name, version, and files or else content."""
    parts: dict[str, Any] = {k: nlp.meta.get(k) for k in ("lang", "name", "version")}
    if nlp.path is not None:
        files = sorted(pathlib.Path(nlp.path).rglob("*"))
        parts["files"] = claims.file_digest([p for p in files if p.is_file()])
    else:  # Without its strings, to which every text may add some.
        content = nlp.to_bytes(exclude=["strings"])
        parts["content"] = hashlib.sha256(content).hexdigest()[:16]
    return claims.fingerprint(parts)
