from collections.abc import Iterator

import pytest

from tests.exactness.harness import ForkServer


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()
