"""Where arrays live: a (data, model) device mesh and rules that map axis names to it.

Parameters carry logical axis names ('embed', 'mlp', …). The rules say which of them
are split over which mesh axis; XLA does the rest (GSPMD). Functions are compiled by
`jax.jit` with a NamedSharding for each argument and result.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax.linen import partitioning as flax_partitioning
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_embedded import _absent
from t5x_embedded.train_state import TrainState

__getattr__ = _absent.module_getattr(__name__)

LogicalAxisRules = Sequence[tuple[str, str | None]]


def _is_spec(x: Any) -> bool:
    """Leaves of trees of PartitionSpecs; None is one: replicated."""
    return x is None or isinstance(x, PartitionSpec)


def _shardings(mesh: Mesh, specs: Any) -> Any:
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec or PartitionSpec()),
        specs,
        is_leaf=_is_spec,
    )


def with_sharding_constraint(x: Any, axis_resources: Any) -> Any:
    """Fixes how `x` is laid out inside a partitioned function; elsewhere returns `x`.

    Args:
        x: an array or a tree of arrays.
        axis_resources: a PartitionSpec of mesh axes (or a tree of them).
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, axis_resources)


_REPLICATED = "relpos_buckets abspos_buckets length layers stack mlp_activations"


def standard_logical_axis_rules(
    activation_partitioning_dims: int = 1,
    parameter_partitioning_dims: int = 1,
    additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
    """T5's rules, earlier ones first.

    Args:
        activation_partitioning_dims: 2 splits activations' embedding axis too.
        parameter_partitioning_dims: 2 splits parameters' embedding axis too.
        additional_rules: rules to add at the end.

    Raises:
        ValueError: a number of dimensions is neither 1 nor 2.
    """
    dims = activation_partitioning_dims, parameter_partitioning_dims
    if not set(dims) <= {1, 2}:
        raise ValueError(
            "activation_partitioning_dims and parameter_partitioning_dims must be 1 or "
            f"2; got {dims[0]} and {dims[1]}"
        )
    split = [("vocab", "model"), ("mlp", "model"), ("heads", "model"), ("kv", None)]
    rules = [("batch", "data"), *split, ("joined_kv", "model")]
    embed = {(1, 1): [None], (2, 1): ["model"], (1, 2): ["data"]}
    rules += [("embed", axis) for axis in embed.get(dims, ["model", "data"])]
    rules += [(name, None) for name in _REPLICATED.split()]
    return rules + list(additional_rules or ())


def default_mesh(num_partitions: int) -> Mesh:
    """A mesh over all devices with axes ('data', 'model').

    jax's mesh_utils place the devices, so that 'model', which communicates most, gets
    the fastest links: neighbours in a TPU's torus, devices of one host elsewhere.

    Args:
        num_partitions: devices along 'model'.

    Raises:
        ValueError: the number of devices is no multiple of `num_partitions`.
    """
    devices = jax.devices()
    if len(devices) % num_partitions:
        raise ValueError(
            f"{len(devices)} devices cannot be split into num_partitions="
            f"{num_partitions} equal parts"
        )
    if devices[0].platform == "tpu" or jax.process_count() == 1:
        shape = len(devices) // num_partitions, num_partitions
        # 16 partitions of an 8x8 slice are no whole axes of it.
        placed = mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )
        return Mesh(placed, ("data", "model"))
    per_host = len(devices) // jax.process_count()
    inside = math.gcd(num_partitions, per_host)
    across = num_partitions // inside
    placed = mesh_utils.create_hybrid_device_mesh(
        (per_host // inside, inside),
        (jax.process_count() // across, across),
        devices,
        process_is_granule=True,
    )
    return Mesh(placed, ("data", "model"))


@dataclasses.dataclass
class DataLayout:
    """Which share of each batch this process loads.

    Attributes:
        batch_size: of all processes together.
        shard_id: this process's share.
        num_shards: the number of different shares.
    """

    batch_size: int
    shard_id: int
    num_shards: int


class _OnMesh:
    """A jitted function that is traced with its mesh and axis rules in force."""

    def __init__(self, jitted: Any, mesh: Mesh, rules: LogicalAxisRules):
        self._jitted = jitted
        self._mesh = mesh
        self._rules = rules

    @contextlib.contextmanager
    def _in_force(self):
        with jax.set_mesh(self._mesh), flax_partitioning.axis_rules(self._rules):
            yield

    def __call__(self, *args, **kwargs):
        with self._in_force():
            return self._jitted(*args, **kwargs)

    def lower(self, *args, **kwargs):
        with self._in_force():
            return self._jitted.lower(*args, **kwargs)


class PjitPartitioner:
    """Lays out train states by logical axis names."""

    __getattr__ = _absent.instance_getattr("partitioning.PjitPartitioner")

    def __init__(
        self,
        num_partitions: int | None = None,
        logical_axis_rules: LogicalAxisRules | None = None,
    ):
        """Sets up the mesh (made on first use) and the rules.

        Args:
            num_partitions: devices that share one copy of the model; the others are
                data parallel. On CPUs too, where T5X ignores it.
            logical_axis_rules: None is `standard_logical_axis_rules()`.

        Raises:
            ValueError: `num_partitions` is not.
        """
        if not num_partitions:
            raise ValueError("num_partitions must be given (1: no model parallelism)")
        self._num_partitions = num_partitions
        rules = logical_axis_rules
        rules = standard_logical_axis_rules() if rules is None else rules
        self.logical_axis_rules = tuple(rules)
        (self._data_axis,) = self._to_mesh(("batch",))

    @functools.cached_property
    def mesh(self) -> Mesh:
        return default_mesh(self._num_partitions)

    @property
    def data_partition_spec(self) -> PartitionSpec:
        """How a batch is laid out: split along its first axis."""
        return PartitionSpec(self._data_axis)

    @property
    def data_mesh_size(self) -> int:
        """The number of devices along the batch."""
        axes = self._data_axis
        axes = (axes,) if isinstance(axes, str) else axes or ()
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def get_data_layout(self, batch_size: int | None = None) -> DataLayout:
        """Which share of each batch this process loads.

        Args:
            batch_size: of all processes together; None is one example per device.

        Raises:
            ValueError: the batch cannot be split evenly.
        """
        batch_size = int(batch_size or self.data_mesh_size)
        if batch_size % self.data_mesh_size:
            raise ValueError(
                f"batch size {batch_size} is not a multiple of the number of devices "
                f"that it is split over, {self.data_mesh_size}"
            )
        sharding = NamedSharding(self.mesh, self.data_partition_spec)
        rows: dict[int, set[int]] = {}  # Process -> where its devices' rows begin.
        for device, (part,) in sharding.devices_indices_map((batch_size,)).items():
            rows.setdefault(device.process_index, set()).add(part.start or 0)
        mine = rows[jax.process_index()]
        shares = sorted({tuple(sorted(starts)) for starts in rows.values()})
        return DataLayout(
            batch_size,
            shard_id=shares.index(tuple(sorted(mine))),
            num_shards=len(shares),
        )

    def to_global(self, batch: Any) -> Any:
        """Joins the rows that the processes hold into global arrays.

        Args:
            batch: tree of this process's rows of a batch.
        """
        sharding = NamedSharding(self.mesh, self.data_partition_spec)
        return jax.make_array_from_process_local_data(sharding, batch)

    def _to_mesh(self, logical_axes: Sequence[str | None]) -> PartitionSpec:
        return flax_partitioning.logical_to_mesh_axes(
            logical_axes, self.logical_axis_rules
        )

    def get_mesh_axes(self, train_state: TrainState) -> TrainState:
        """The state with PartitionSpecs of mesh axes instead of arrays.

        Raises:
            ValueError: an axis name has no rule; the message names the parameter.
        """

        def to_mesh(path, axes):
            try:
                return self._to_mesh(axes)
            except ValueError as e:
                name = jax.tree_util.keystr(path)
                raise ValueError(f"no mesh axes for {name}: {e}") from e

        return jax.tree_util.tree_map_with_path(
            to_mesh,
            train_state.as_logical_axes(),
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )

    def partition(
        self,
        fn: Callable,
        in_axis_resources: Any,
        out_axis_resources: Any,
        donate_argnums: Any = (),
    ) -> _OnMesh:
        """`fn` compiled over the mesh.

        Args:
            fn: a function of arrays; inside it axis rules and the mesh are in force.
            in_axis_resources: a PartitionSpec for each array argument; trees and
                prefixes of trees work, None is replicated.
            out_axis_resources: the same for the results.
            donate_argnums: arguments whose memory the results may take.

        Returns:
            A function with the signature of `fn`, and `lower`.
        """
        jitted = jax.jit(
            fn,
            in_shardings=_shardings(self.mesh, in_axis_resources),
            out_shardings=_shardings(self.mesh, out_axis_resources),
            donate_argnums=donate_argnums,
        )
        return _OnMesh(jitted, self.mesh, self.logical_axis_rules)

    def compile(self, partitioned_fn: Any, *args) -> Callable[..., Any]:
        """Compiles ahead of the first call.

        Args:
            partitioned_fn: anything with `lower(*args)`, as `partition` returns it.
            *args: arguments, or shapes, like those it will be called with.
        """
        return partitioned_fn.lower(*args).compile()


BasePartitioner = PjitPartitioner  # T5X has other partitioners; here it is the one.
