"""About how long a patch takes, said before anything takes long."""

from __future__ import annotations

import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from t5patches.patch import search
from t5patches.patch.asked import Patch
from t5patches.run.stages import Record

# The share of the speed of matrix products that models reach, and the seconds that a
# run of T5X's scripts takes to begin (to read, to compile): at best, and at worst.
_REACHED, _BEGIN = (0.75, 0.2), (5, 20)
# Passes to try alternatives of a text: 3 of them, of 6 pieces, on the made-up news.
_TRIED = 20


def speed() -> float:
    """Returns the float32 FLOP a second that matrix products reach on all devices."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    matrix, product = jnp.ones((size, size)), jax.jit(lambda x: x @ x)
    product(matrix).block_until_ready()
    start = time.perf_counter()
    product(matrix).block_until_ready()
    seconds = time.perf_counter() - start
    return 2 * size**3 / seconds * jax.device_count()


def minutes(
    patch: Patch, done: Mapping[str, Record], flops: float
) -> tuple[float, float]:
    """Returns about how long all stages behind `model` take, at best and at worst.

    A forward pass has 2 FLOP for each parameter and token, a backward pass 4 (Kaplan et
    al. 2020, arXiv 2001.08361); half of the parameters see inputs, half outputs.

    Args:
      patch: what is asked for.
      done: the records of `inputs` and `model`.
      flops: a second, as `speed` measures.
    """
    found, examples = done["model"], done["inputs"]["examples"]
    test, every = examples["test"], sum(examples.values())
    points = search.count(patch) if patch.search else 0
    passes, runs = test + points * (every - examples["train"]), 2 + 3 * points
    if not patch.annotated:
        passes += every + (test if patch.whole else _TRIED * (every - test))
        runs += 6 if patch.whole else 5
    # Once forwards the frozen model, and of an update forwards and backwards.
    passes += every - test
    passes += 3 * patch.steps * patch.batch_size * (1 + search.SHARE * points)
    tokens = (found["inputs_length"] + patch.targets_length) / 2
    work = 2 * found["parameters"] * tokens * passes / flops
    best, worst = (
        (work / share + begin * runs) / 60
        for share, begin in zip(_REACHED, _BEGIN, strict=True)
    )
    return best, worst
