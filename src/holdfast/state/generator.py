"""Random number generators that users hold: torch's, numpy's, Python's. Nothing here draws from them."""

from __future__ import annotations

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
from holdfast.state.item import Captured, stored_specs
from holdfast.state.tree import capture_tree, restore_tree, tag_of
from holdfast.types import ItemRecord

_LONG = 64
"""Collections longer than this are data, not settings, and are not searched."""
_CLOSED = (str, bytes, bytearray, int, float, complex, type, types.ModuleType, types.FunctionType, types.MethodType)


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
    """Puts back what `generator_state` gave. Raises `MisfitError` for another generator's state."""
    try:
        if isinstance(generator, random.Random):
            generator.setstate(state)
        elif hasattr(generator, "bit_generator"):
            generator.bit_generator.state = state
        else:
            generator.set_state(state)
    except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise MisfitError(f"a {description(generator)} generator refused the saved state: {error}") from error


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


def find_generators(obj: object, depth: int = 3) -> dict[str, Any]:
    """Every generator that ``obj`` holds, at most ``depth`` attributes down, by its path.

    The process's global generators are not among them, and modules, tensors, functions and long
    collections are not searched. Reads attributes only where they are stored: no property runs.

    >>> class Loader:
    ...     def __init__(self):
    ...         self.rng = random.Random(0)
    >>> list(find_generators(Loader()))
    ['rng']
    """
    found: dict[str, Any] = {}
    seen = _global_generators()
    pending = deque([("", obj, depth)])
    while pending:
        path, value, left = pending.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_generator(value):
            found[path] = value
        elif left > 0:
            pending.extend((f"{path}.{name}".lstrip("."), part, left - 1) for name, part in _parts(value))
    return found


def _global_generators() -> set[int]:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy.random")
    known: list[object] = [getattr(random.random, "__self__", None)]
    if torch is not None:
        known.append(torch.default_generator)
    if numpy is not None:
        known.append(getattr(numpy.rand, "__self__", None))
    return {id(generator) for generator in known}


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    torch = sys.modules.get("torch")
    if isinstance(value, _CLOSED) or tag_of(value) or (torch is not None and isinstance(value, torch.nn.Module)):
        return
    if isinstance(value, dict):
        yield from ((str(key), part) for key, part in value.items() if len(value) <= _LONG)
    elif isinstance(value, list | tuple):
        yield from ((str(index), part) for index, part in enumerate(value) if len(value) <= _LONG)
    else:
        yield from _attributes(value)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        yield from list(attributes.items())
    for cls in type(value).__mro__:
        for descriptor in list(vars(cls).values()):
            if isinstance(descriptor, types.MemberDescriptorType):
                yield from _slot(descriptor, value)


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
