"""The right outputs of a data set as predictions, to be annotated like a model's.

    python -m t5patches.tasks.references --data train.jsonl --inputs-key document \\
      --targets-key summary --output references/train.jsonl

What `t5patches annotate` writes for them is what the kind `filtered` of
`tasks.annotated_task` reads for the baseline that trains on the original data without
its unwanted examples. The lines have no ids: annotating encodes their texts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

from t5patches.errors import UserError, explained
from t5patches.interchange import json_files, shards, tables


def predictions(
    paths: Sequence[str], inputs_key: str, targets_key: str, id_key: str
) -> Iterator[shards.Row]:
    """Yields `inputs`, `prediction` and `id` of each row of JSON lines, CSV or Parquet.

    Raises:
      UserError: naming file, line and field.
    """
    rows = (pair for path in paths for pair in tables.read_rows(path))
    ids, index = tables.Ids(), None
    for index, (where, row) in enumerate(rows):
        name = tables.id_field(row, id_key, where) or str(index)
        ids.add(name, where)
        yield {
            "inputs": tables.text_field(row, inputs_key, where),
            "prediction": tables.text_field(row, targets_key, where),
            "id": name,
        }
    if index is None:
        raise UserError(f"{', '.join(paths)}: no rows in it")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the references of files as predictions; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", required=True, nargs="+", action="extend", metavar="FILE"
    )
    parser.add_argument("--inputs-key", default="inputs", metavar="FIELD")
    parser.add_argument("--targets-key", default="targets", metavar="FIELD")
    parser.add_argument("--id-key", default="id", metavar="FIELD")
    parser.add_argument("--output", required=True, metavar="FILE")
    args = parser.parse_args(argv)
    try:
        keys = (args.inputs_key, args.targets_key, args.id_key)
        paths = shards.expand(args.data)
        shards.check_output(args.output)
        if os.path.realpath(args.output) in map(os.path.realpath, paths):
            raise UserError(f"{args.output}: is read; give another output")
        count = json_files.write_jsonl(args.output, predictions(paths, *keys))
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        return 2
    print(f"{count:,} references written to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
