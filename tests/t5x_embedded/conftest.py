"""The toy model's train state, made once for all tests of the engine."""

import jax
import pytest

from tests.t5x_embedded import toy


@pytest.fixture(scope="session")
def initializer():
    return toy.initializer()


@pytest.fixture(scope="session")
def state(initializer):
    """From scratch, at step 0."""
    return initializer.from_scratch(jax.random.PRNGKey(0))
