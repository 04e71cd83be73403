"""Renaming the entries of a stored train state before it is restored."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util


def apply_assignment_map(
    ckpt_optimizer_state: Mapping[str, Any],
    optimizer_state: Mapping[str, Any],
    assignment_map: Sequence[tuple[str, str | None]],
    require_all_rules_match: bool = True,
    *,
    is_resuming: bool = False,
) -> Mapping[str, Any]:
    """Renames stored entries to the names the model uses.

    A rule is (regular expression over the model's name, template of the stored
    name); the first rule that matches a name wins. A template of None leaves the
    entry out, to be filled from scratch. Names that no rule matches keep their entry.

    Args:
        ckpt_optimizer_state: nested entries of the checkpoint, of any leaf type.
        optimizer_state: nested entries of the model; only its names matter.
        assignment_map: the rules.
        require_all_rules_match: whether a rule that no name matches is an error.
        is_resuming: a resumed run reads its own names, so nothing is renamed.

    Returns:
        Nested entries under the model's names.

    Raises:
        ValueError: a rule points at an entry that is not stored, or matches nothing.
    """
    if is_resuming:
        return ckpt_optimizer_state
    stored = traverse_util.flatten_dict(ckpt_optimizer_state, sep="/")
    wanted = traverse_util.flatten_dict(optimizer_state, sep="/")
    rules = [(re.compile(pattern), template) for pattern, template in assignment_map]

    renamed, dropped, moved, used = {}, set(), set(), set()
    for name in wanted:
        for index, (pattern, template) in enumerate(rules):
            match = pattern.fullmatch(name)
            if match is None:
                continue
            used.add(index)
            if template is None:
                dropped.add(name)
                break
            source = match.expand(template)
            if source not in stored:
                raise ValueError(
                    f"assignment_map: {name!r} should come from {source!r}, which "
                    f"the checkpoint does not have. It has: {sorted(stored)}"
                )
            renamed[name] = stored[source]
            moved.add(source)
            break

    if require_all_rules_match and len(used) < len(rules):
        idle = [assignment_map[i][0] for i in range(len(rules)) if i not in used]
        raise ValueError(f"assignment_map: no parameter matches {idle}")
    kept = {
        name: value
        for name, value in stored.items()
        if name not in renamed
        and name not in dropped
        and (name in wanted or name not in moved)
    }
    return traverse_util.unflatten_dict({**kept, **renamed}, sep="/")
