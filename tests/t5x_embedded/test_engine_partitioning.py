"""Meshes, layouts and partitioned steps on virtual devices and in two processes."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from t5x_embedded import partitioning, train_state

# Virtual devices must be asked for before jax starts, so in a process of their own.
PRELUDE = """
import flax, jax, jax.numpy as jnp, numpy as np
from flax.linen import partitioning as flax_partitioning
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as P
from t5x_embedded import adafactor, partitioning, train_state

def state():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    names = lambda *axes: flax_partitioning.AxisMetadata(names=axes)
    return train_state.FlaxOptimTrainState.create(
        adafactor.Adafactor(min_dim_size_to_factor=4),
        flax.core.freeze({
            "params": {"wi": draw(8, 16), "wo": draw(16, 8)},
            "params_axes": {"wi_axes": names("embed", "mlp"),
                            "wo_axes": names("mlp", "embed")}}))

def step(state, x):
    def loss(params):
        h = jnp.tanh(x @ params["wi"])
        h = flax_partitioning.with_sharding_constraint(h, ("batch", "mlp"))
        h = partitioning.with_sharding_constraint(h, P("data", "model"))
        return jnp.mean((h @ params["wo"] - x) ** 2)
    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradient(grads, learning_rate=0.1), value
"""


def start(code, devices, *args):
    env = dict(
        os.environ,
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={devices}",
    )
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, *map(str, args)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


MESHES = """
# What computes must import where TensorFlow, SeqIO and T5X are missing.
import sys
from t5x_embedded import decoding, losses, metrics, optimizers
heavy = {m.split(".")[0] for m in sys.modules}
assert not heavy & {"tensorflow", "seqio", "t5", "t5x", "t5patches"}, heavy
import pytest

x = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)
results = []
for num_partitions in (1, 2, 8):
    p = partitioning.PjitPartitioner(num_partitions=num_partitions)
    assert dict(p.mesh.shape) == {"data": 8 // num_partitions, "model": num_partitions}
    assert p.data_mesh_size == 8 // num_partitions
    assert vars(p.get_data_layout(16)) == dict(
        batch_size=16, shard_id=0, num_shards=1)
    before = state()
    axes = p.get_mesh_axes(before)
    assert axes.params["wi"] == P(None, "model") and axes.step is None
    before = p.partition(lambda x: x, (axes,), axes)(before)
    assert before.params["wi"].sharding.spec == P(None, "model")
    fn = p.partition(step, (axes, p.data_partition_spec), (axes, None),
                     donate_argnums=(0,))
    lowered = fn.lower(before, x).as_text()
    assert "sharding_constraint" in lowered, lowered
    if num_partitions == 2:
        x_in = jax.device_put(x, jax.NamedSharding(p.mesh, p.data_partition_spec))
        after, value = p.compile(fn, before, x_in)(before, x_in)
    else:
        after, value = fn(before, x)
    assert after.params["wi"].sharding.spec == P(None, "model")
    results.append((float(value), np.asarray(after.params["wo"])))
for value, wo in results[1:]:
    np.testing.assert_allclose(value, results[0][0], rtol=1e-5)
    np.testing.assert_allclose(wo, results[0][1], rtol=1e-5, atol=1e-6)

with pytest.raises(ValueError, match="8 devices cannot be split into num_partitions=3"):
    partitioning.PjitPartitioner(num_partitions=3).mesh
with pytest.raises(ValueError, match="batch size 6 is not a multiple"):
    partitioning.PjitPartitioner(num_partitions=2).get_data_layout(6)
"""


def test_meshes_of_eight_devices():
    """(8, 1), (4, 2) and (1, 8): the same step, laid out differently."""
    finish(start(MESHES, 8))


class Chip:
    """A TPU's device, as far as a mesh looks at it."""

    platform, device_kind, core_on_chip, slice_index = "tpu", "TPU v5 lite", 0, 0

    def __init__(self, x, y):
        self.coords, self.id, self.process_index = (x, y, 0), 8 * x + y, x // 2 * 4


def test_partitions_that_are_no_whole_axes_of_a_slice(monkeypatch):
    """16 of an 8x8 slice: a block of neighbours each."""
    chips = [Chip(x, y) for x in range(8) for y in range(8)]
    monkeypatch.setattr(jax, "devices", lambda backend=None: chips)
    mesh = partitioning.default_mesh(16)
    assert dict(mesh.shape) == {"data": 4, "model": 16}
    for block in mesh.devices:
        spans = np.ptp([chip.coords for chip in block], axis=0) + 1
        assert np.prod(spans) == 16


PROCESSES = """
import sys
port, index = map(int, sys.argv[1:])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, index)

def half(value, spec):
    value = np.asarray(value)
    if spec is None or "model" not in spec:
        return value
    return np.split(value, 2, list(spec).index("model"))[index]

for num_partitions in (2, 4):
    p = partitioning.PjitPartitioner(num_partitions=num_partitions)
    layout = p.get_data_layout(8)
    x = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    mine = np.split(x, layout.num_shards)[layout.shard_id]
    x = p.to_global(mine)
    before = state()
    axes = p.get_mesh_axes(before)
    if num_partitions == 4:  # A process has half of every parameter that is split.
        parts = jax.tree.map(half, before.state_dict(), axes.state_dict())
        before = before.restore_state(parts)
    specs = jax.tree.map(lambda s: s or P(), axes,
                         is_leaf=lambda s: s is None or isinstance(s, P))
    before = multihost_utils.host_local_array_to_global_array(before, p.mesh, specs)
    assert before.params["wi"].shape == (8, 16)
    _, value = p.partition(step, (axes, p.data_partition_spec), (axes, None))(before, x)
    print("RESULT", layout.shard_id, layout.num_shards, f"{float(value):.5f}")
"""


def test_two_processes():
    """Two devices each: the batch split between the processes, then the model."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [start(PROCESSES, 2, port, index) for index in (0, 1)]
    lines = [
        [line.split()[1:] for line in finish(p).splitlines() if line[:6] == "RESULT"]
        for p in running
    ]
    layouts = [[line[:2] for line in own] for own in lines]
    assert layouts == [[["0", "2"], ["0", "1"]], [["1", "2"], ["0", "1"]]]
    x = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    rng = np.random.default_rng(0)
    wi, wo = rng.standard_normal((8, 16)), rng.standard_normal((16, 8))
    expected = np.mean((np.tanh(x @ wi) @ wo - x) ** 2)
    values = [float(line[2]) for own in lines for line in own]
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_one_device():
    p = partitioning.PjitPartitioner(num_partitions=1)
    assert p.data_partition_spec == PartitionSpec("data")
    assert p.get_data_layout().batch_size == 1
    double = p.partition(lambda x: x * 2, (p.data_partition_spec,), None)
    np.testing.assert_array_equal(double(np.arange(3.0)), [0, 2, 4])


def test_constraints_outside_a_partitioned_function_do_nothing():
    x = jnp.ones(3)
    spec = PartitionSpec("data")
    assert partitioning.with_sharding_constraint(x, spec) is x
    jax.jit(lambda x: partitioning.with_sharding_constraint(x, spec))(x)


def test_rules_can_leave_batches_whole():
    p = partitioning.PjitPartitioner(1, logical_axis_rules=[("batch", None)])
    assert p.data_partition_spec == PartitionSpec(None)
    layout = p.get_data_layout(3)
    assert (layout.batch_size, layout.num_shards) == (3, 1)


def test_rules_come_in_order():
    rules = dict(partitioning.standard_logical_axis_rules())
    assert rules["batch"] == "data" and rules["embed"] is None
    assert {k for k, v in rules.items() if v == "model"} == {
        *("vocab", "mlp", "heads", "joined_kv")
    }
    both = partitioning.standard_logical_axis_rules(2, 2)
    assert [axis for name, axis in both if name == "embed"] == ["model", "data"]
    with pytest.raises(ValueError, match="must be 1 or 2; got 3 and 1"):
        partitioning.standard_logical_axis_rules(3)


def test_axes_that_cannot_be_mapped_name_their_parameter():
    class State:
        def as_logical_axes(self):
            axes = {"layer": {"kernel": PartitionSpec("embed", "embed")}}
            return train_state.InferenceState(step=None, params=axes)

    p = partitioning.PjitPartitioner(num_partitions=1)
    with pytest.raises(ValueError, match="kernel"):
        p.get_mesh_axes(State())
