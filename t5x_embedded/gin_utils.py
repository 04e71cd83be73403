"""Gin, as the scripts use it: flags, parsing, the summary in the model folder."""

import re
from collections.abc import Sequence

import gin
import jax
from absl import logging
from etils import epath

from t5x_embedded import _absent

__getattr__ = _absent.module_getattr(__name__)

# Gin records the names under which modules were imported; the configuration must
# replay on either engine, so T5X's are written.
_OWN_IMPORT = re.compile(r"^(from|import) t5x_embedded\b", re.MULTILINE)


def get_gin_config_str() -> str:
    """The parsed configuration, as text that gin can parse."""
    return _OWN_IMPORT.sub(r"\1 t5x", gin.config_str())


def parse_gin_flags(
    gin_search_paths: Sequence[str],
    gin_files: Sequence[str] | None,
    gin_bindings: Sequence[str],
) -> None:
    """Parses gin files, then bindings; later ones win.

    Args:
        gin_search_paths: folders that relative paths are looked up in, in order.
        gin_files: paths.
        gin_bindings: 'name = value' statements.

    Raises:
        OSError: a file is not found. Files of T5X's own ('t5x/…') never are.
    """
    for folder in gin_search_paths:
        gin.add_config_file_search_path(folder)
    try:
        gin.parse_config_files_and_bindings(gin_files, gin_bindings)
    except OSError as error:
        if re.search(r"(?<![\w/])t5x/", str(error)):
            raise OSError(
                _absent.message("the gin files of T5X ('t5x/…')") + f". {error}"
            ) from error
        raise
    logging.info("Gin configuration:\n%s", get_gin_config_str())


def summarize_gin_config(model_dir: str, summary_writer, step: int) -> None:
    """Writes the configuration to `<model_dir>/config.gin` and TensorBoard.

    Args:
        model_dir: made if it is not there.
        summary_writer: a clu MetricWriter, or None.
        step: the step to show it at.
    """
    if jax.process_index() != 0:
        return
    text = get_gin_config_str()
    folder = epath.Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.gin").write_text(text)
    if summary_writer is not None:
        summary_writer.write_texts(step, {"config": gin.markdown(text)})
        summary_writer.flush()
