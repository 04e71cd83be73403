"""benchmarks/pod_memory.py lowers a step as the machine that it is for would."""

import argparse
import types

import jax
import pytest
from jax.experimental import topologies

from benchmarks import pod_memory


def case(*place):
    flags = "--models t5_1_1_tiny --kinds finetune --batch 8 --inputs 8 --targets 32"
    [case] = pod_memory.cases(pod_memory.parse_args([*flags.split(), *place]))
    return argparse.Namespace(**case)


@pytest.fixture
def one_chip(monkeypatch):
    """A topology of one device, this machine's CPU: libtpu is not needed."""
    description = types.SimpleNamespace(devices=jax.devices("cpu")[:1])
    monkeypatch.setattr(topologies, "get_topology_desc", lambda *_: description)
    return "--topologies=v5e:1x1"


def test_a_topology_is_what_jax_knows_of(monkeypatch):
    chips = [object()] * 32
    description = types.SimpleNamespace(devices=chips)
    monkeypatch.setattr(topologies, "get_topology_desc", lambda *_: description)
    before = jax.default_backend(), jax.device_count()
    with pod_memory.on_topology("v5e:4x8"):
        assert (jax.default_backend(), jax.device_count()) == ("tpu", 32)
        assert jax.devices() is chips
    assert (jax.default_backend(), jax.device_count()) == before


def test_a_step_is_lowered_for_its_machine(one_chip):
    here = pod_memory.lower_step(case("--devices=1")).as_text()
    there = pod_memory.lower_step(case(one_chip)).as_text()
    # 33 MB of logits: more than a CPU has at a time, less than a TPU has.
    half = "tensor<8x16x32128xf32>"
    assert half in here and half not in there
    # On a TPU a token is looked up by the product with a one-hot array.
    one_hot = "tensor<8x8x32128xf32>"
    assert one_hot in there and one_hot not in here


def test_cases_of_topologies_count_their_devices():
    found = case("--topologies=v5e:8x16", "--partitions=16", "--gin=NUM_LAYERS=2")
    assert (found.devices, found.partitions, found.gin) == (128, 16, ["NUM_LAYERS=2"])
