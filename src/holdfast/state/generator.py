"""Random number generators that users hold: torch's, numpy's, Python's. Nothing here draws from them."""

from __future__ import annotations

import contextlib
import random
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.engine.leaves import Target
from holdfast.errors import MisfitError
from holdfast.state.fit import Fit, check_kind
from holdfast.state.generator_check import check_numpy, check_python, check_torch
from holdfast.state.item import Captured, stored_specs
from holdfast.state.tree import capture_tree, restore_tree, tag_of
from holdfast.types import ItemRecord

_LONG = 64
"""Collections longer than this are data, not settings, and are not searched."""
_MOST = 2048
"""Objects that one search looks into, nearest first: it runs once in every pass over a loader."""
_CLOSED = (str, bytes, bytearray, int, float, complex, type, types.ModuleType)
_METHODS = (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)
Members = dict[type, list[tuple[str, Any]]]
"""By class, what its objects have in common or in slots."""
_PASSAGES = (list, tuple, types.FunctionType, *_METHODS)
"""What leads to other objects without being a place of its own in a script's objects."""


def is_generator(obj: object) -> bool:
    """Whether ``obj`` is a generator whose state can be read and set.

    >>> is_generator(random.Random(0)), is_generator(random.SystemRandom())
    (True, False)
    """
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy.random")
    return (
        (isinstance(obj, random.Random) and not isinstance(obj, random.SystemRandom))
        or (torch is not None and isinstance(obj, torch.Generator))
        or (numpy is not None and isinstance(obj, numpy.Generator | numpy.RandomState))
    )


def generator_state(generator: Any) -> Any:
    """The state as nested plain values with tensors or arrays; its own copy."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    if hasattr(generator, "tomaxint"):
        return generator.get_state(legacy=False)
    return generator.get_state()


def set_generator_state(generator: Any, state: Any) -> None:
    """Puts back what `generator_state` gave. Raises `MisfitError` for another state, and leaves the generator alone."""
    before = generator_state(generator)
    try:
        _check(generator, state, before)
        _set(generator, state)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        # Some take a part of the state before they refuse the rest.
        _set(generator, before)
        raise MisfitError(
            f"a {description(generator)} generator refused the saved state, and is as it was: {error}. Use the "
            "generator that was saved, or go back to another checkpoint."
        ) from error


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _check(generator: Any, state: Any, before: Any) -> None:
    """Raises `ValueError` for a state that the generator might take, and crash with."""
    if isinstance(generator, random.Random):
        if type(generator).setstate is random.Random.setstate:
            check_python(state)
    elif hasattr(generator, "device"):
        check_torch(state, generator.device.type)
    else:
        check_numpy(state, before)


def description(generator: Any) -> str:
    """What kind of generator this is: states are only exchanged between equal ones.

    >>> description(random.Random(0))
    'Random'
    """
    name = type(generator).__qualname__
    if hasattr(generator, "device"):
        return f"{name} {generator.device.type}"
    bits = getattr(generator, "bit_generator", None) or getattr(generator, "_bit_generator", None)
    return f"{name} {type(bits).__qualname__}" if bits is not None else name


def find_generators(obj: object, depth: int = 4) -> dict[str, Any]:
    """Every generator that ``obj`` holds, at most ``depth`` attributes down, by its path.

    Functions are searched in what they captured and in their defaults, methods in the object they belong to; neither
    counts as an attribute, nor does a place in a list. The process's global generators are not among them, and
    modules, tensors, global names and long collections are not searched. Reads attributes only where they are stored:
    no property runs.

    >>> class Loader:
    ...     def __init__(self):
    ...         self.rng = random.Random(0)
    >>> list(find_generators(Loader()))
    ['rng']
    """
    found: dict[str, Any] = {}
    seen = _global_generators()
    members: Members = {}
    pending, visits = deque([("", obj, depth)]), 0
    while pending and visits < _MOST:
        path, value, left = pending.popleft()
        if value is None or id(value) in seen or isinstance(value, _CLOSED):
            continue
        seen.add(id(value))
        visits += 1
        below = left - (not isinstance(value, _PASSAGES))
        if is_generator(value):
            found[path] = value
        elif below >= 0:
            pending.extend((f"{path}.{name}".lstrip("."), part, below) for name, part in _parts(value, members))
    return found


def _global_generators() -> set[int]:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy.random")
    known: list[object] = [getattr(random.random, "__self__", None)]
    if torch is not None:
        known.append(torch.default_generator)
    if numpy is not None:
        known.append(getattr(numpy.rand, "__self__", None))
    return {id(generator) for generator in known}


def _parts(value: Any, members: Members) -> Iterator[tuple[str, Any]]:
    torch = sys.modules.get("torch")
    if tag_of(value) or (torch is not None and isinstance(value, torch.nn.Module)):
        return
    if isinstance(value, dict):
        yield from ((str(key), part) for key, part in value.items() if len(value) <= _LONG)
    elif isinstance(value, list | tuple):
        yield from ((str(index), part) for index, part in enumerate(value) if len(value) <= _LONG)
    elif isinstance(value, types.FunctionType):
        yield from _captured(value)
    elif isinstance(value, _METHODS):
        yield "<self>", value.__self__
        yield "<method>", getattr(value, "__func__", None)
    else:
        yield from _attributes(value, members)


def _captured(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function took with it when it was made, by the names it has there."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a name that has no value yet
            yield f"<closure>.{name}", cell.cell_contents
    defaults = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, part in (*zip(names, defaults, strict=False), *(function.__kwdefaults__ or {}).items()):
        yield f"<default>.{name}", part
    yield from list(function.__dict__.items())


def _attributes(value: Any, members: Members) -> Iterator[tuple[str, Any]]:
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        yield from list(attributes.items())
    kind = type(value)
    if kind not in members:
        members[kind] = [member for cls in kind.__mro__[:-1] for member in vars(cls).items() if _is_member(member[1])]
    for name, one in members[kind]:
        if isinstance(one, types.MemberDescriptorType):
            yield from _slot(one, value)
        else:
            yield name, one


def _is_member(one: object) -> bool:
    """Whether what a class holds leads anywhere: a slot, a method that captured something, a generator."""
    if isinstance(one, types.FunctionType):
        return bool(one.__closure__ or one.__defaults__ or one.__kwdefaults__)
    return isinstance(one, types.MemberDescriptorType) or is_generator(one)


def _slot(descriptor: types.MemberDescriptorType, value: Any) -> Iterator[tuple[str, Any]]:
    try:
        yield descriptor.__name__, descriptor.__get__(value)
    except AttributeError:
        return


class GeneratorItem:
    """A generator that is saved by its state and restored in place."""

    kind = "generator"

    def __init__(self, path: str, generator: Any, prefix: str = "") -> None:
        self._path = path
        self._generator = generator
        self._prefix = prefix

    def capture(self) -> Captured:
        tree, tensors = capture_tree(generator_state(self._generator), self._path, self._prefix)
        return Captured(kind=self.kind, tree=tree, tensors=tensors, metadata={"class": description(self._generator)})

    def prepare(self, record: ItemRecord, *, strict: bool = True, cast: bool = False) -> GeneratorRestore:
        """A state fits only the same kind of generator, strict or not."""
        check_kind(self._path, record, self.kind)
        fit = Fit(self._path, strict, cast)
        saved, here = record.metadata.get("class"), description(self._generator)
        if saved != here:
            fit.problems.append(f"the state of a {saved} generator in the checkpoint, a {here} here")
        fit.refuse()
        state, targets = restore_tree(record.tree, stored_specs(record, self._path), self._path)
        return GeneratorRestore(self._generator, targets, state)


@dataclass(slots=True)
class GeneratorRestore:
    """The state goes into the generator in `apply`."""

    generator: Any
    targets: Mapping[str, Target]
    state: Any
    notes: tuple[str, ...] = ()
    before: Any = None

    def apply(self) -> None:
        self.before = generator_state(self.generator)
        set_generator_state(self.generator, self.state)

    def undo(self) -> None:
        if self.before is not None:
            set_generator_state(self.generator, self.before)
