"""What trainer and writer say to each other."""

from __future__ import annotations

import os
import resource

import pytest

from holdfast.engine.messages import readable


def test_descriptors_above_1023_are_watched() -> None:
    """A trainer with many open files has them, and select() would refuse them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this process may not have so many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    source, sink = os.pipe()
    high = os.dup2(source, 2000)
    try:
        assert readable([high], 0) == []
        os.write(sink, b"x")
        assert readable([high], None) == [high]
    finally:
        for descriptor in (source, sink, high):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
