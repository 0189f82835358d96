"""The plan: a pure function of names, dtypes, shapes and shared memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.plan import Everything, Plan, align, make_plan, signature
from holdfast.format.dtypes import nbytes
from holdfast.types import Alias, TensorSpec


@dataclass
class Memory:
    """A source that has only what a plan looks at."""

    spec: TensorSpec
    identity: Any = None
    frozen: bool = False


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


VECTOR = TensorSpec("float32", (3,))


def sources(tied: bool = True, first: str = "w", spec: TensorSpec = VECTOR, memory: str = "a"):
    """Two tensors of an item, and one of another that may share its memory with the first."""
    other = Memory(VECTOR, memory if tied else "b")
    return {"model": {first: Memory(spec, memory), "x": Memory(spec, "c")}, "copy": {"y": other}}


def test_a_signature_tells_all_that_a_plan_depends_on():
    """A name, dtype, shape, tie or checkpoint that has changed; not at which address the memory is."""
    plain = signature(sources())
    assert signature(sources(memory="moved")) == plain
    assert make_plan(sources(memory="moved")) == make_plan(sources())
    others = [
        signature(sources(tied=False)),
        signature(sources(first="v")),
        signature(sources(spec=TensorSpec("float32", (1, 3)))),
        signature(sources(spec=TensorSpec("int32", (3,)))),
        signature(dict(reversed(sources().items()))),
        signature({"model": sources()["model"]}),
        signature({**sources(), "empty": {}}),
        signature(sources(), [Everything(), Everything()]),
        signature(sources(), [Everything(), Some({"model/w"})]),
        signature(sources(), [Everything(), Some({"model/x"})]),
    ]
    assert len({plain, *others}) == len(others) + 1


def test_names_that_go_from_one_item_to_another_make_another_signature():
    """Where one item ends and the next begins is told."""
    one = Memory(VECTOR)
    split = signature({"a": {"b": one}, "c": {"d": one}})
    assert split != signature({"a": {"b": one, "c": one, "d": one}})
    assert split != signature({"a": {}, "b": {"c": one, "d": one}})


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
    for shard in plan.shards:
        spans = list(shard.layout.ranges.values())
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        for name, (begin, end) in shard.layout.ranges.items():
            assert end - begin == nbytes(items[shard.item][name].spec)
    assert plan.size == (ends[-1] if ends else 0)


@dataclass
class Some:
    """The contents of a checkpoint: these tensors and no others, as ``item/tensor``."""

    names: set[str]

    def takes(self, item: str) -> bool:
        return any(name.startswith(f"{item}/") for name in self.names)

    def left_out(self, item: str, tensors: Iterable[str]) -> list[str]:
        return [one for one in tensors if f"{item}/{one}" not in self.names]


def held(plan: Plan, checkpoint: int) -> dict[str, set[str]]:
    """The tensors in each of the files that belong to a checkpoint of the snapshot, aliases under their owners."""
    files = {one.file for one in plan.shards if one.members >> checkpoint & 1}
    found: dict[str, set[str]] = {file: set() for file in files}
    for item, tensors in plan.tensors.items():
        for name, record in tensors.items():
            for chunk in record.chunks:
                if chunk.file in files:
                    found[chunk.file].add(f"{item}/{name}")
    return found


def test_a_part_of_an_item_has_a_file_of_its_own():
    """What both checkpoints hold is in one file, what only one of them holds in another."""
    leaves = {name: Memory(TensorSpec("float32", (2,))) for name in ("body", "head")}
    plan = make_plan({"model": leaves}, [Everything(), Some({"model/body"})])
    assert held(plan, 0) == {"model.safetensors": {"model/body"}, "model-2.safetensors": {"model/head"}}
    assert held(plan, 1) == {"model.safetensors": {"model/body"}}


def test_a_second_file_takes_no_name_of_an_item():
    """An item may be called `model-2`."""
    leaves = {name: Memory(TensorSpec("float32", (2,))) for name in ("body", "head")}
    plan = make_plan({"model": leaves, "model-2": dict(leaves)}, [Everything(), Some({"model/body"})])
    assert sorted(shard.file for shard in plan.shards) == [
        "model-2.safetensors", "model-3.safetensors", "model.safetensors"
    ]  # fmt: skip


def test_a_tie_never_leads_out_of_a_checkpoint():
    """A checkpoint of the head alone holds the weights that it shares with the model; the whole one holds them once."""
    tied = Memory(TensorSpec("float32", (3,)), identity="memory")
    plan = make_plan({"model": {"weight": tied}, "head": {"weight": tied}}, [Everything(), Some({"head/weight"})])
    assert plan.aliases == {"model": {"weight": Alias("head", "weight")}, "head": {}}
    assert held(plan, 1) == {"head.safetensors": {"head/weight"}}
    apart = make_plan(
        {"model": {"weight": tied}, "head": {"weight": tied}}, [Some({"head/weight"}), Some({"model/weight"})]
    )
    assert apart.aliases == {"model": {}, "head": {}}


checkpoints = st.lists(
    st.sets(st.sampled_from([f"{item}/{name}" for item in ("model", "ema") for name in "abc"])), min_size=1, max_size=3
)


@given(contents=checkpoints, ties=st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy")))
def test_every_checkpoint_is_made_of_whole_files_and_holds_just_what_it_takes(contents, ties):
    """Whatever they take and whatever is tied: no file holds a tensor too many, and every alias leads to one inside."""
    sources = {
        item: {name: Memory(TensorSpec("float32", (2,)), ties.get(name)) for name in "abc"} for item in ("model", "ema")
    }
    plan = make_plan(sources, [Some(one) for one in contents])
    for number, wanted in enumerate(contents):
        stored = set().union(*held(plan, number).values())
        tied = {
            f"{item}/{name}": f"{owner.item}/{owner.tensor}"
            for item, aliases in plan.aliases.items()
            for name, owner in aliases.items()
        }
        assert stored | {name for name in wanted if name in tied} == wanted
        assert {tied[name] for name in wanted if name in tied} <= stored


LARGE = TensorSpec("float32", (128, 128))
"""As much as gets a file of its own."""


def files_of(plan: Plan) -> dict[str, tuple[set[str], bool]]:
    """What is in each file, and whether it is frozen."""
    return {one.file: (set(one.layout.ranges), one.frozen) for one in plan.shards}


def test_frozen_tensors_have_a_file_of_their_own():
    """It can stay while the rest changes. It comes last, wherever they stand in the item."""
    plan = make_plan({"model": {"base": Memory(LARGE, "a", frozen=True), "head": Memory(VECTOR, "b")}})
    assert files_of(plan) == {"model.safetensors": ({"head"}, False), "model-2.safetensors": ({"base"}, True)}


def test_an_item_that_is_frozen_as_a_whole_has_one_file():
    """A teacher, or an average that is not trained."""
    plan = make_plan({"teacher": {name: Memory(LARGE, name, frozen=True) for name in "ab"}})
    assert files_of(plan) == {"teacher.safetensors": ({"a", "b"}, True)}


def test_a_few_frozen_bytes_stay_with_the_others():
    """A file more costs more than they do."""
    plan = make_plan({"model": {"scale": Memory(VECTOR, "a", frozen=True), "head": Memory(LARGE, "b")}})
    assert files_of(plan) == {"model.safetensors": ({"scale", "head"}, False)}


def test_memory_that_is_trained_under_another_name_is_not_frozen():
    """A frozen parameter may be tied to one that is not, in its item or in another."""
    tied, other = Memory(LARGE, "a", frozen=True), Memory(LARGE, "b", frozen=True)
    items = {"model": {"base": tied, "own": other}, "copy": {"base": Memory(LARGE, "a")}}
    plan = make_plan(items)
    assert files_of(plan) == {"model.safetensors": ({"base"}, False), "model-2.safetensors": ({"own"}, True)}
    assert plan.aliases["copy"] == {"base": Alias("model", "base")}


def test_a_signature_tells_what_is_frozen():
    """Thawed, it is planned anew; which of a few bytes are frozen makes no difference."""

    def of(spec: TensorSpec, frozen: bool) -> object:
        return signature({"model": {"base": Memory(spec, "a", frozen), "head": Memory(LARGE, "b")}})

    assert of(LARGE, True) != of(LARGE, False)
    assert of(VECTOR, True) == of(VECTOR, False)


def test_frozen_parts_of_several_checkpoints_are_files_of_each():
    """Each checkpoint is still made of whole files."""
    leaves = {"base": Memory(LARGE, "a", True), "deep": Memory(LARGE, "b", True), "head": Memory(LARGE, "c")}
    plan = make_plan({"model": leaves}, [Everything(), Some({"model/base"})])
    assert {frozenset(names) for names, _ in files_of(plan).values()} == {frozenset({one}) for one in leaves}
    assert [held(plan, 1)[file] for file in held(plan, 1)] == [{"model/base"}]
