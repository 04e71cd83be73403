"""States of examples are found by their tokens, whatever the file or the order."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5patches.errors import UserError
from t5patches.interchange import frozen_states

EXAMPLES = [([5, 6, 1], [7, 8, 1]), ([], [9, 1]), ([5, 6], [1, 7, 8, 1])]


def states(number, dtype=jnp.bfloat16):
    """Numbers that say whose they are, and of which position."""
    positions = len(EXAMPLES[number][1])
    rows = 100 * number + np.arange(positions)[:, None] + [0.0, 0.5]
    return rows.astype(dtype)


def write(folder, *numbers, **options):
    keys = [frozen_states.key(*map(np.array, EXAMPLES[i])) for i in numbers]
    return frozen_states.write(folder, keys, [states(i, **options) for i in numbers])


def rows(store, number, weights=None):
    inputs, targets = (np.array(ids, np.int32) for ids in EXAMPLES[number])
    weights = np.ones(len(targets)) if weights is None else np.array(weights)
    return store.rows(inputs, targets, weights)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_was_written_is_read(tmp_path, dtype):
    write(tmp_path, 1, 0, dtype=jnp.dtype(dtype))
    write(tmp_path, 2, dtype=jnp.dtype(dtype))
    store = frozen_states.Store(tmp_path)
    assert (len(store), store.features, store.dtype) == (3, 2, jnp.dtype(dtype))
    for i in range(3):
        np.testing.assert_array_equal(store.read(rows(store, i)), states(i, dtype))
    # As in a packed row: of two files, one right after the other, and padding.
    packed = np.concatenate([rows(store, 0), rows(store, 2), [0, 0], rows(store, 1)])
    expected = [states(0, dtype), states(2, dtype), np.zeros((2, 2)), states(1, dtype)]
    np.testing.assert_array_equal(store.read(packed), np.concatenate(expected))
    # Of several examples at once, and the first row of all right behind padding.
    found = store.read(np.array([[0, 1], [2, 0]]))
    np.testing.assert_array_equal(found[[0, 1], [1, 0]], store.read(np.array([1, 2])))
    assert found[0, 1].any() and not found[[0, 1], [0, 1]].any()


def test_targets_that_do_not_count_have_no_row(tmp_path):
    write(tmp_path, 1)  # Two positions.
    frozen_states.write(
        tmp_path,
        [frozen_states.key(*map(np.array, EXAMPLES[2]))],
        [states(1, np.float32)[:2].astype(jnp.bfloat16)],
    )
    store = frozen_states.Store(tmp_path)
    found = store.read(rows(store, 2, weights=[0, 1, 0, -1]))
    np.testing.assert_array_equal(found[[1, 3]], states(1)[:2])
    assert not found[[0, 2]].any()
    with pytest.raises(UserError, match="no states of an example"):
        rows(store, 2)


def test_what_is_not_there_or_broken_is_said(tmp_path):
    assert len(frozen_states.Store(tmp_path / "none")) == 0
    path = write(tmp_path, 0)
    assert write(tmp_path, 0) == path  # As another command would.
    store = frozen_states.Store(tmp_path)
    with pytest.raises(UserError, match=r"no states .* \[9, 1\].*`t5patches cache`"):
        rows(store, 1)
    other = write(tmp_path, 1, dtype=np.float32)
    # Of the two the one that is read second.
    second = max(path, other).name
    with pytest.raises(UserError, match=f"{second}: is of another model"):
        frozen_states.Store(tmp_path)
    other.unlink()
    data = path.with_suffix(".bin")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path.name}: does not fit its .bin"):
        frozen_states.Store(tmp_path)
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=f"{path.name}: is broken"):
        frozen_states.Store(tmp_path)
