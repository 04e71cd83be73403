"""The pieces of a T5 network, as functions of arrays wherever a function does.

Parameters are declared by one module, `Weight`, under the names, shapes, initialisers
and logical axes of T5X's `examples/t5`, so that its checkpoints and partitioning rules
apply. The arithmetic around them is arranged for the compiler rather than for the
equations: relative positions are looked up per distance instead of per pair,
attention dropout is applied to the values, and the softmax is normalised after the
product with the values. Each of these agrees with the textbook order of operations
up to rounding.

References:
  Raffel et al, Exploring the Limits of Transfer Learning, https://arxiv.org/abs/1910.10683
  Shazeer, GLU Variants Improve Transformer, https://arxiv.org/abs/2002.05202
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning
from jax import lax

# Added to the logits of pairs that must not attend. Not -inf: a row whose keys are all
# masked (padding) then averages its values instead of giving NaN.
MASKED = -1e10

NUM_BUCKETS = 32
MAX_DISTANCE = 128

# The initialisers of T5X, which fold the 1/sqrt(head_dim) of attention into the query.
attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Weight(nn.Module):
    """One float32 parameter with logical axis names.

    Attributes:
      parameter: name of the parameter inside the module, such as `kernel`.
      shape: its shape.
      axes: a logical axis name for each dimension.
      init: initialiser, called with (key, shape, dtype).
    """

    parameter: str
    shape: Sequence[int]
    axes: Sequence[str]
    init: Callable[..., jax.Array] = dense_init

    @nn.compact
    def __call__(self) -> jax.Array:
        return partitioning.param_with_axes(
            self.parameter, self.init, self.shape, jnp.float32, axes=self.axes
        )


def kernel(name: str, shape, axes, init=dense_init) -> jax.Array:
    """Declares a dense kernel `name/kernel`, for use inside a compact method."""
    return Weight("kernel", shape, axes, init, name=name)()


def rms_norm(name: str, x: jax.Array, dtype: Any) -> jax.Array:
    """T5's layer norm: no mean, no bias. Statistics in float32, `dtype` out.

    Args:
      name: name of the module that holds the `scale`.
      x: [..., features].
      dtype: dtype of the result.
    """
    scale = Weight("scale", x.shape[-1:], ("embed",), nn.initializers.ones, name=name)()
    x = x.astype(jnp.float32)
    inverse = lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
    return (x * inverse).astype(dtype) * scale.astype(dtype)


class Dropout(nn.Module):
    """Dropout by a multiplier of the mask's size.

    Flax's own `nn.Dropout` selects between two full arrays; T5 shares a mask along the
    length, so the multiplier is small. The mask is the one `nn.Dropout` draws under
    the same module path.

    Attributes:
      rate: probability that an entry is zeroed.
      shared_axes: axes along which the mask is repeated.
    """

    rate: float
    shared_axes: Sequence[int] = (-2,)

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        if deterministic or self.rate == 0.0:
            return x
        shape = list(x.shape)
        for axis in self.shared_axes:
            shape[axis] = 1
        return x * keep_multiplier(self.make_rng("dropout"), self.rate, shape, x.dtype)


def keep_multiplier(key: jax.Array, rate: float, shape, dtype) -> jax.Array:
    """1 / (1 - rate) where an entry is kept and 0 where it is dropped."""
    if rate >= 1.0:
        return jnp.zeros(shape, dtype)
    kept = jax.random.bernoulli(key, 1.0 - rate, shape)
    return kept.astype(dtype) / jnp.asarray(1.0 - rate, dtype)


@jax.custom_vjp
def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [batch, length, in] times weight [in, out].

    Autodiff would have the gradient of the weight as the transpose of a product of two
    transposes, and XLA on a CPU writes all of these out, an element at a time, together
    with the elementwise operations before them. Over flat positions it need not.
    """
    return x @ weight


def _product_fwd(x, weight):
    return x @ weight, (x, weight)


def _product_bwd(operands, gradient):
    x, weight = operands
    d_x = lax.dot_general(gradient, weight, (((2,), (1,)), ((), ())))
    flat = [a.reshape(-1, a.shape[-1]) for a in (x, gradient)]
    d_weight = lax.dot_general(*flat, (((0,), (0,)), ((), ())))
    return d_x, d_weight


product.defvjp(_product_fwd, _product_bwd)


def token_embedder(vocab_size: int, features: int, **options: Any) -> Weight:
    """Returns the module of the embedding table [vocab_size, features]."""
    shape, axes = (vocab_size, features), ("vocab", "embed")
    return Weight("embedding", shape, axes, nn.initializers.normal(1.0), **options)


def embed(table: jax.Array, ids: jax.Array, dtype: Any) -> jax.Array:
    """Rows of `table` [vocab, features] at `ids` [batch, length], in `dtype`.

    A gather, except on TPU, where a product with a one-hot array uses the matrix unit
    and partitions over a sharded vocabulary. Ids outside the table give zeros in both.
    """
    if ids.ndim != 2:
        raise ValueError(f"tokens: expected [batch, length], got shape {ids.shape}")
    table = table.astype(dtype)
    ids = ids.astype(jnp.int32)
    if jax.default_backend() == "tpu":
        rows = jax.nn.one_hot(ids, table.shape[0], dtype=dtype) @ table
    else:
        rows = table.at[ids].get(mode="fill", fill_value=0, wrap_negative_indices=False)
    return partitioning.with_sharding_constraint(rows, ("batch", "length", "embed"))


def distance_buckets(length: int, bidirectional: bool) -> np.ndarray:
    """Bucket of every distance between two positions of a sequence.

    Near distances have a bucket each; beyond half of the buckets (of a direction) they
    widen logarithmically up to MAX_DISTANCE, and everything further shares the last.

    Args:
      length: number of positions.
      bidirectional: whether keys after the query have buckets of their own (the upper
        half); otherwise they share the bucket of distance 0.

    Returns:
      int32 [2 * length - 1]; entry j is for key - query = j - (length - 1).
    """
    ahead = np.arange(1 - length, length, dtype=np.int32)
    buckets = NUM_BUCKETS // 2 if bidirectional else NUM_BUCKETS
    exact = buckets // 2
    distance = np.abs(ahead) if bidirectional else np.maximum(-ahead, 0)
    # float32 throughout, epsilon included: bucket borders are rounding-sensitive.
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    octaves = np.log(ratio) / np.log(MAX_DISTANCE / exact)
    far = exact + (octaves * (buckets - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, buckets - 1))
    return (bucket + buckets * (bidirectional & (ahead > 0))).astype(np.int32)


def position_bias(table: jax.Array, length: int, bidirectional: bool) -> jax.Array:
    """Attention bias of every pair of positions.

    The bias depends on key - query alone, so that 2 * length - 1 values are looked up
    and laid out as a Toeplitz matrix by padding and reshaping, both ways cheap.

    Args:
      table: [heads, NUM_BUCKETS].
      length: number of positions, of queries and of keys.
      bidirectional: see `distance_buckets`.

    Returns:
      [1, heads, length, length] in the table's dtype.
    """
    heads = table.shape[0]
    # Rows of width 2 * length read at width 2 * length - 1 slip by one each: row q
    # then starts at key - query = -q, once the first row starts at 0. The entry that
    # makes the width even is never read.
    buckets = np.append(distance_buckets(length, bidirectional), 0)
    start = table[:, np.roll(buckets, 1 - length)]
    rows = jnp.broadcast_to(start[:, None], (heads, length, 2 * length))
    flat = rows.reshape(heads, 2 * length * length)[:, : length * (2 * length - 1)]
    return flat.reshape(heads, length, 2 * length - 1)[None, :, :, :length]


def relative_positions(
    num_heads: int, length: int, dtype: Any, bidirectional: bool
) -> jax.Array:
    """Returns `position_bias` of a table declared here, in a compact method."""
    shape, axes = (num_heads, NUM_BUCKETS), ("heads", "relpos_buckets")
    init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
    table = Weight("rel_embedding", shape, axes, init, name="relpos_bias")()
    return position_bias(table.astype(dtype), length, bidirectional)


def pair_mask(
    query_valid: jax.Array,
    key_valid: jax.Array,
    query_segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    causal: bool = False,
    prefix: jax.Array | None = None,
) -> jax.Array:
    """Which query may attend to which key.

    Args:
      query_valid: bool [batch, q_length].
      key_valid: bool [batch, k_length].
      query_segments: int [batch, q_length], the example that each position belongs to
        in a packed sequence.
      key_segments: int [batch, k_length].
      causal: whether keys after the query are hidden.
      prefix: bool [batch, length], positions that nevertheless see each other, in
        self-attention.

    Returns:
      bool [batch, 1, q_length, k_length].
    """
    mask = query_valid[:, :, None] & key_valid[:, None, :]
    if query_segments is not None:
        mask &= query_segments[:, :, None] == key_segments[:, None, :]
    if causal:
        visible = np.tri(mask.shape[1], mask.shape[2], dtype=bool)
        if prefix is not None:
            visible = visible | (prefix[:, :, None] & prefix[:, None, :])
        mask &= visible
    return mask[:, None]


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    key_multiplier: jax.Array | None = None,
    float32_logits: bool = False,
) -> jax.Array:
    """softmax(query · key + bias) · value, unscaled as in T5.

    Args:
      query: [batch, q_length, heads, head_dim].
      key: [batch, k_length, heads, head_dim].
      value: [batch, k_length, heads, head_dim].
      bias: [1, heads, q_length, k_length]; [batch, …] where there is no gradient.
      mask: bool, broadcasts to [batch, heads, q_length, k_length]; no gradient.
      key_multiplier: dropout of the attention weights, [batch, heads, k_length, 1]. T5
        shares it among the queries, so that it may act on the values.
      float32_logits: compute logits and softmax in float32 whatever the dtype.

    Returns:
      [batch, q_length, heads, head_dim] in the value's dtype.
    """
    if float32_logits:
        query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    if key_multiplier is not None:
        value = value * jnp.swapaxes(key_multiplier, 1, 2)
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    if mask is not None:
        mask = jnp.where(mask, 0.0, MASKED).astype(query.dtype)
    return jnp.swapaxes(_attend(query, key, value, bias, mask), 1, 2)


@jax.custom_vjp
def _attend(query, key, value, bias, mask):
    """`attend` with heads before positions. The gradient of `mask` is not computed."""
    return _attend_fwd(query, key, value, bias, mask)[0]


def _attend_fwd(query, key, value, bias, mask):
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key)
    for term in (bias, mask):
        if term is not None:
            logits += term.astype(logits.dtype)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.float32)
    weights = weights.astype(value.dtype)
    # Normalised after the product, which is smaller than the weights.
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
    mixed = (mixed / total).astype(value.dtype)
    return mixed, (query, key, value, bias, weights, total, mixed)


def _attend_bwd(saved, gradient):
    query, key, value, bias, weights, total, mixed = saved
    # With p = weights / total: d_value = pᵀ g, d_p = g valueᵀ and, since the rows of p
    # sum to one, d_logits = p · (d_p - g · mixed).
    gradient = gradient / total
    inner = jnp.sum(gradient * mixed, axis=-1, keepdims=True)
    gradient = gradient.astype(value.dtype)
    d_value = jnp.einsum("bhqk,bhqd->bhkd", weights, gradient)
    d_weights = jnp.einsum("bhqd,bhkd->bhqk", gradient, value)
    d_logits = (weights * (d_weights - inner)).astype(query.dtype)
    d_query = jnp.einsum("bhqk,bhkd->bhqd", d_logits, key)
    d_key = jnp.einsum("bhqk,bhqd->bhkd", d_logits, query)
    d_bias = None
    if bias is not None:
        # A sum over the batch, as a product: XLA's reduction of a leading axis on a
        # CPU takes a hundred times as long.
        ones = jnp.ones(d_logits.shape[0], d_logits.dtype)
        d_bias = jnp.einsum("b,bhqk->hqk", ones, d_logits)[None].astype(bias.dtype)
    return d_query, d_key, d_value, d_bias, None


_attend.defvjp(_attend_fwd, _attend_bwd)


class Attention(nn.Module):
    """Multi-head attention with T5X's cache for decoding a token at a time.

    Attributes:
      num_heads: number of heads.
      head_dim: size of a head.
      dtype: dtype of the activations.
      dropout_rate: of the attention weights.
      float32_logits: see `attend`.
    """

    num_heads: int
    head_dim: int
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0
    float32_logits: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        bias: jax.Array | None = None,
        mask: jax.Array | None = None,
        *,
        deterministic: bool,
        decode: bool = False,
        prefill_lengths: jax.Array | None = None,
        fixed_memory: bool = False,
    ) -> jax.Array:
        """Lets every position of `x` attend to `memory`.

        Args:
          x: [batch, q_length, features].
          memory: [batch, k_length, features]; None: `x` itself, self-attention. While
            decoding `x` may be [batch * decodes, 1, features], the decodes of one
            memory next to each other.
          bias: see `attend`; while decoding, over the whole length of the cache.
          mask: see `attend`; while decoding, None, or bool [batch, 1, 1, length] where
            rows did not begin together: whether a row sees so many positions back.
          deterministic: no dropout.
          decode: self-attention through the cache. Without a cache one is made, of the
            length of `x`; with one, `x` is the next position, [batch, 1, features].
          prefill_lengths: int [batch]; self-attention over the whole length, after
            which so many positions of each row are in the cache, and the next one to
            decode is row by row another.
          fixed_memory: called in a loop with the same `memory` at every step. Its keys
            and values are put into the collection `memory` where that is mutable, and
            taken from there, [batch, heads, k_length, head_dim], where it has them:
            of `memory` nothing but the number of rows is then looked at.

        Returns:
          [batch, q_length, features] in `dtype`.
        """
        width, features = self.num_heads * self.head_dim, x.shape[-1]
        memory = x if memory is None else memory
        axes = ("embed", "joined_kv")

        def project(name, source, init=attention_init):
            weight = kernel(name, (features, width), axes, init).astype(self.dtype)
            heads = product(source.astype(self.dtype), weight).reshape(
                *source.shape[:-1], self.num_heads, self.head_dim
            )
            return partitioning.with_sharding_constraint(
                heads, ("batch", "length", "heads", "kv")
            )

        def query_init(*args):
            return attention_init(*args) / jnp.asarray(self.head_dim**0.5, self.dtype)

        query = project("query", x, query_init)
        # Decodes of one memory are queries of it: its keys are there and read once.
        query = query.reshape(len(memory), -1, *query.shape[2:])
        if fixed_memory:
            key, value = self._memory(functools.partial(project, source=memory))
        else:
            key, value = project("key", memory), project("value", memory)
        if prefill_lengths is not None:
            if decode:
                raise ValueError("a cache is either filled (prefill) or decoded from")
            keys, values, index = self._cache(key, value)
            # What is behind those positions is overwritten before it is read.
            keys.value, values.value = (jnp.moveaxis(x, 1, -1) for x in (key, value))
            index.value = prefill_lengths.astype(jnp.int32)
        elif decode:
            key, value, bias, mask = self._through_cache(key, value, bias, mask)

        multiplier = None
        if not deterministic and self.dropout_rate > 0.0:
            shape = (x.shape[0], self.num_heads, key.shape[1], 1)
            multiplier = keep_multiplier(
                self.make_rng("dropout"), self.dropout_rate, shape, self.dtype
            )
        mixed = attend(query, key, value, bias, mask, multiplier, self.float32_logits)
        out = kernel("out", (width, features), axes[::-1], attention_init)
        mixed = mixed.reshape(*x.shape[:-1], width)
        return product(mixed, out.astype(self.dtype))

    def _memory(self, project):
        """Keys and values of what is the same at every step of a loop."""
        if self.has_variable("memory", "key"):
            both = [self.get_variable("memory", name) for name in ("key", "value")]
        else:
            # XLA moves a product out of a loop but not a transpose alone, and would
            # write all keys and values anew at every step, heads before positions;
            # behind a barrier it moves both.
            both = [jnp.swapaxes(project(name), 1, 2) for name in ("key", "value")]
            both = lax.optimization_barrier(both)
            if self.is_mutable_collection("memory"):
                self.put_variable("memory", "key", both[0])
                self.put_variable("memory", "value", both[1])
        return [jnp.swapaxes(x, 1, 2) for x in both]

    def _cache(self, key, value):
        """T5X's layout, which its decoding functions tile and reorder for beams.

        `cached_*` [batch, heads, head_dim, length], and `cache_index`, the next
        position: a scalar, or after a prefill [batch].
        """
        batch, length, heads, head_dim = key.shape
        shape = (batch, heads, head_dim, length)
        return (
            self.variable("cache", "cached_key", jnp.zeros, shape, key.dtype),
            self.variable("cache", "cached_value", jnp.zeros, shape, value.dtype),
            self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32),
        )

    def _through_cache(self, key, value, bias, mask):
        """Appends a position to the cache: (keys, values, its bias, its mask)."""
        filled = self.has_variable("cache", "cached_key")
        keys, values, index = self._cache(key, value)
        if not filled:
            return key, value, bias, mask
        batch, heads, head_dim, length = keys.value.shape
        if key.shape != (batch, 1, heads, head_dim):
            raise ValueError(
                "with a cache, one position is decoded at a time: expected keys of "
                f"shape {(batch, 1, heads, head_dim)} [batch, 1, heads, head_dim], "
                f"got {key.shape}"
            )
        if bias.shape[-1] != length:
            raise ValueError(
                f"the cache has {length} positions but the position bias "
                f"{bias.shape[-1]}: pass the cache's length as max_decode_length"
            )
        ring = mask is not None
        here = index.value % length if ring else index.value
        positions, place = jnp.arange(length), here.reshape(-1, 1, 1, 1)
        for cached, new in ((keys, key), (values, value)):
            new = jnp.moveaxis(new, 1, -1)
            if here.ndim or jax.default_backend() == "tpu":
                # Rows at different positions; and TPU's minor axis is slow to slice.
                cached.value = jnp.where(positions == place, new, cached.value)
            else:
                cached.value = lax.dynamic_update_slice_in_dim(
                    cached.value, new, here, axis=-1
                )
        if ring:
            # All rows write to one place, and what was written longest ago is lost.
            back = (here - positions) % length
            bias = jnp.take(bias[:, :, -1:], length - 1 - back, axis=-1)
            mask = jnp.take(mask, back, axis=-1)
        elif here.ndim:
            bias = bias.at[0, :, here].get(mode="clip")[:, :, None]
        else:
            bias = lax.dynamic_slice_in_dim(bias, here, 1, axis=-2)
        index.value += 1
        keys, values = (jnp.moveaxis(cached.value, -1, 1) for cached in (keys, values))
        return keys, values, bias, mask if ring else positions <= place


def activation(name: str | Callable) -> Callable:
    """The function named `name` in flax.linen; `linear` is the identity."""
    if callable(name):
        return name
    function = (lambda x: x) if name == "linear" else getattr(nn, name, None)
    if function is None:
        raise ValueError(f"flax.linen has no activation function {name!r}")
    return function


class Mlp(nn.Module):
    """Feed-forward layer: the product of activated projections, projected back.

    Attributes:
      width: size of the layer in between.
      activations: one for each projection: ("relu",) is T5 1.0, ("gelu", "linear")
        T5 1.1.
      dropout_rate: of the layer in between.
      dtype: dtype of the activations.
    """

    width: int
    activations: Sequence[str | Callable]
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps [batch, length, features] to the same shape, in `dtype`."""
        features, x = x.shape[-1], x.astype(self.dtype)
        factors = []
        for i, name in enumerate(self.activations):
            label = "wi" if len(self.activations) == 1 else f"wi_{i}"
            weight = kernel(label, (features, self.width), ("embed", "mlp"))
            factors += [activation(name)(product(x, weight.astype(self.dtype)))]
        hidden = functools.reduce(jnp.multiply, factors)
        hidden = Dropout(self.dropout_rate)(hidden, deterministic)
        hidden = partitioning.with_sharding_constraint(
            hidden, ("batch", "length", "mlp")
        )
        wo = kernel("wo", (self.width, features), ("mlp", "embed"))
        return product(hidden, wo.astype(self.dtype))


def logits(x: jax.Array, vocab_size: int, table: jax.Array | None = None) -> jax.Array:
    """Logits of a decoder's output, for use inside a compact method.

    Args:
      x: [batch, length, features].
      vocab_size: number of logits.
      table: the embedding table [vocab, features] where it makes the logits; otherwise
        `logits_dense` does, which is declared here.

    Returns:
      [batch, length, vocab_size], float32.
    """
    if table is not None:
        return head_logits(x, table, tied=True)
    weight = kernel("logits_dense", (x.shape[-1], vocab_size), ("embed", "vocab"))
    return head_logits(x, weight, tied=False)


def head_logits(x: jax.Array, weight: jax.Array, *, tied: bool) -> jax.Array:
    """Logits of a decoder's output and the parameters of the output layer.

    Args:
      x: [batch, length, features].
      weight: [features, vocab], or where it is `tied` the embedding [vocab, features].
      tied: whether the embedding makes the logits.

    Returns:
      [batch, length, vocab], float32.
    """
    x = x.astype(jnp.float32)
    if tied:
        return product(x * x.shape[-1] ** -0.5, weight.T)
    return product(x, weight)
