"""What ``import holdfast`` offers, and what it must not drag along."""

import ast
import json
import subprocess
import sys

import pytest

import holdfast

HEAVY = {"torch", "tensorflow", "numpy", "rich", "typer", "msgspec", "blake3", "xxhash", "multiprocessing", "threading"}


def run_python(code: str) -> str:
    """Prints of ``code`` in a fresh interpreter that has seen neither pytest nor any of its plug-ins."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def modules_after(code: str) -> set[str]:
    return set(json.loads(run_python(f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))")))


def test_import_brings_no_framework_and_nothing_slow():
    """Importing holdfast imports no framework, no numpy, no command-line library, and no other room of its own."""
    brought = modules_after("import holdfast") - modules_after("import importlib, typing")
    assert not brought & HEAVY
    assert {name for name in brought if name.startswith("holdfast")} == {"holdfast"}


def test_import_starts_nothing():
    """Importing holdfast starts no thread, opens no file, installs no signal handler and configures no logging."""
    footprint = """
import logging, os, signal, threading
def state():
    handlers = [signal.getsignal(s) for s in signal.valid_signals()]
    return threading.active_count(), sorted(os.listdir("/proc/self/fd")), handlers, logging.root.handlers
before = state()
import holdfast
print(state() == before)
"""
    assert run_python(footprint).strip() == "True"


@pytest.mark.parametrize("name", holdfast.__all__)
def test_every_public_name_resolves(name):
    """Each name in ``__all__`` is the object of that name in the module that defines it."""
    assert getattr(holdfast, name).__name__ == name


def test_public_names_are_sorted_and_listed():
    """``__all__`` is sorted, without doubles, and ``dir`` shows every name before its first use."""
    assert holdfast.__all__ == sorted(set(holdfast.__all__))
    assert set(holdfast.__all__) <= set(dir(holdfast))


def test_type_checkers_see_every_public_name():
    """What type checkers see imported is what ``__all__`` promises at run time."""
    with open(holdfast.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == holdfast.__all__


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt name fails like on any module."""
    with pytest.raises(AttributeError, match=r"module 'holdfast' has no attribute 'Runn'"):
        _ = holdfast.Runn
