"""The examples in the package's docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import holdfast

MODULES = [
    module.name
    for module in pkgutil.walk_packages(holdfast.__path__, "holdfast.", onerror=lambda name: None)
    if not module.name.endswith(".__main__")  # importing it is running it
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_as_printed(name, tmp_path, monkeypatch):
    """Every ``>>>`` example of the module prints what its docstring says."""
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0
