"""Imported by every interpreter that finds this folder in PYTHONPATH: the writer process of a test."""

import syscalls

syscalls.install_from_environment()
