"""The plan: a pure function of names, dtypes, shapes and shared memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.plan import align, make_plan, signature
from holdfast.format.dtypes import nbytes
from holdfast.types import Alias, TensorSpec


@dataclass
class Memory:
    """A source that has only what a plan looks at."""

    spec: TensorSpec
    identity: Any = None


def test_each_item_with_tensors_becomes_one_shard():
    """An item without tensors has no file."""
    plan = make_plan({"model": {"w": Memory(TensorSpec("float32", (3,)))}, "scheduler": {}})
    assert [shard.file for shard in plan.shards] == ["model.safetensors"]
    assert plan.tensors["scheduler"] == {}


def test_tied_tensors_are_stored_once_also_across_items():
    """The first name stores the memory, every later one is an alias of it."""
    tied = Memory(TensorSpec("float32", (3,)), identity="memory")
    plan = make_plan({"model": {"a": tied, "b": tied}, "copy": {"c": tied}})
    assert list(plan.tensors["model"]) == ["a"]
    assert plan.aliases == {"model": {"b": Alias("model", "a")}, "copy": {"c": Alias("model", "a")}}
    assert len(plan.shards) == 1


def test_the_same_memory_with_another_signature_makes_another_plan():
    """A plan is used again only while nothing that it depends on has changed."""
    one = {"model": {"w": Memory(TensorSpec("float32", (3,)))}}
    other = {"model": {"w": Memory(TensorSpec("float32", (4,)))}}
    assert signature(one) == signature(one)
    assert signature(one) != signature(other)


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "bfloat16", "complex64", "bool", "int64", "float8_e4m3fn"])
tensors = st.dictionaries(st.sampled_from("abcdef"), st.builds(lambda d, s: Memory(TensorSpec(d, s)), dtypes, shapes))


@given(items=st.dictionaries(st.sampled_from(["model", "ema", "optimizer"]), tensors, max_size=3))
def test_every_tensor_has_its_own_bytes_inside_an_aligned_shard(items):
    """Shards start at whole blocks and do not overlap; neither do the tensors in them."""
    plan = make_plan(items)
    assert all(shard.offset == align(shard.offset) for shard in plan.shards)
    ends = [shard.offset + shard.padded_size for shard in plan.shards]
    assert [shard.offset for shard in plan.shards] == [0, *ends[:-1]][: len(plan.shards)]
    spans = sorted((place.begin, place.end) for place in plan.placements if place.begin < place.end)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    for place in plan.placements:
        assert place.end - place.begin == nbytes(items[place.item][place.tensor].spec)
    assert plan.size == (ends[-1] if ends else 0)
