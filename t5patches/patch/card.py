"""The section of a model card that says what an update was and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tabulate

from t5patches import __version__
from t5patches.report import numbers, rendering
from t5patches.run.stages import Record

_SECTION = """\
## Targeted update

This model was updated with t5patches {version}, so that it no longer says what was
unwanted and stays as it was otherwise (targeted negative training,
[arXiv 2406.13660](https://arxiv.org/abs/2406.13660)).

{settings}

On {count:,} test inputs, which the update has not seen, with 95 % intervals:

{tables}

{verdict}

What is unwanted is what the annotator finds: what it overlooks counts as clean.
`report.html` has every output before and after, `run/commands.txt` the commands that
made this model.
"""


def section(
    results: Mapping[str, Any], settings: Mapping[str, Any], done: Mapping[str, Record]
) -> str:
    """Returns the section, as Markdown.

    Args:
      results: of the evaluation, as `results.json` has them.
      settings: of the patch; texts and phrases are named by their digests.
      done: stage -> its record.
    """
    share = done["annotate"]["share_with_unwanted"]["train"]
    told = {
        "unwanted": settings.get("annotator", "marked in outputs that were given"),
        "texts": settings["inputs"] or settings["annotated"],
        "examples": done["inputs"]["examples"],
        "training outputs with something unwanted": rendering.share(share),
        "original": settings["model"],
        "step": done["update"]["step"],
        **{name: settings[name] for name in ("method", "alpha", "learning_rate")},
        "learning rates tried": settings.get("learning rates tried"),
        **{name: settings[name] for name in ("steps", "batch_size", "seed")},
    }
    lines = [
        f"- {name.replace('_', ' ')}: {rendering.plain(value)}"
        for name, value in told.items()
        if value not in (None, {})
    ]
    first, second, *_ = numbers.tables(results)
    tables = [
        tabulate.tabulate(
            table.texts(), table.head, tablefmt="github", disable_numparse=True
        )
        for table in (first, second)
    ]
    return _SECTION.format(
        version=__version__,
        settings="\n".join(lines),
        count=results["examples"],
        tables="\n\n".join(tables),
        verdict=results["verdict"],
    )
