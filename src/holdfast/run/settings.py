"""What the script gives its optimizers and schedulers, and what of it a resume overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import torch
from torch.optim.lr_scheduler import LRScheduler

Settings = dict[str, dict[str, Any]]
"""By path of the object: plain values by name, a list of them for the groups of an optimizer."""

_DERIVED = frozenset({"params", "initial_lr", "base_lrs", "last_epoch"})
"""Names of what follows from other settings, or is no setting."""


def settings(optimizers: Mapping[str, Any], schedulers: Mapping[str, LRScheduler]) -> Settings:
    """The settings of objects as they were made, before anything is restored into them.

    >>> model = torch.nn.Linear(2, 1)
    >>> settings({"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}, {})["optimizer"]["lr"]
    [0.1]
    """
    found: Settings = {}
    for path, optimizer in optimizers.items():
        groups = list(getattr(optimizer, "param_groups", ()))
        names = dict.fromkeys(name for group in groups for name in group if name not in _DERIVED)
        found[path] = {name: [_plain(group.get(name)) for group in groups] for name in names}
    for path, scheduler in schedulers.items():
        found[path] = dict(_flat(scheduler.state_dict()))
    return found


def settings_from_tree(tree: Any) -> Settings:
    """Settings that were stored. Raises `ValueError` for anything else."""
    stored = msgspec.convert(tree, dict[str, dict[Any, Any]])
    return {path: {name: _plain(value) for name, value in values.items()} for path, values in stored.items()}


def _flat(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of a scheduler's state; schedulers in it, as in a chain of them, by their place."""
    for name, value in state.items():
        if name == "_schedulers":
            for index, inner in enumerate(value):
                yield from _flat(inner, f"{prefix}{index}.")
        elif not str(name).startswith("_") and name not in _DERIVED:
            yield f"{prefix}{name}", _plain(value)


def _plain(value: Any) -> Any:
    """A value that can be stored and compared; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else None
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value if type(value) in (bool, int, float, str) else None


def overridden(before: Settings, now: Settings, rates: Mapping[str, Any]) -> list[str]:
    """A sentence for each object whose settings in the script changed, and are not what the resume restores.

    ``rates`` are the learning rates that the checkpoint holds.
    """
    messages = []
    for path, values in now.items():
        then = before.get(path, {})
        changed = [name for name, value in values.items() if name in then and _differ(then[name], value, path in rates)]
        if changed == ["lr"] and rates.get(path) == values["lr"]:
            continue  # it is the one that is restored
        if changed:
            listed = ", ".join(f"{name}={_text(values[name])} (before: {_text(then[name])})" for name in changed)
            restored = f"lr={_text(rates[path])}" if "lr" in changed and path in rates else "what it was"
            messages.append(
                f"the script now gives {path} {listed}, but the checkpoint restores {restored}. To use the new "
                "setting, make the change in the body of the innermost loop of the run: before its first batch, "
                "the state is restored once more."
            )
    return messages


def _differ(then: Any, now: Any, of_groups: bool) -> bool:
    """Parameter groups that the first script added only later, or this one adds only later, are no edit."""
    if of_groups and isinstance(then, list) and isinstance(now, list):
        return any(one != other for one, other in zip(then, now, strict=False))
    return bool(then != now)


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    return ", ".join(map(_text, value)) if isinstance(value, list) else f"{value!r}"
