"""Copies into the arena that go on behind training, while the next batch is computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from holdfast.engine.arena import Pin
from holdfast.engine.leaves import Source
from holdfast.engine.messages import Persist

Copy = Callable[[memoryview, int], None]
"""Writes bytes of a tensor into a place in the arena; the number says which of its bytes come first."""


class Copies(Protocol):
    """The tensors of one snapshot that a device copies by itself, as they are when `start` is called."""

    def copy_of(self, source: Source) -> Copy:
        """How to copy ``source``: `Source.copy_into`, or a call that only notes the place, for later."""
        ...

    def start(self) -> None:
        """Lets training go on: what it changes from here on is not in the snapshot."""
        ...

    def finish(self) -> str | None:
        """Copies all that was noted; called from another thread than `start`.

        Returns why bytes of a later moment may be among them, or None if there are none.
        """
        ...


class Device(Protocol):
    """A device with memory of its own, which it copies into pinned memory of the host behind training."""

    def pinning(self) -> Pin | None:
        """How to make the arena memory that it copies into by itself; None where nothing would be copied."""
        ...

    def copies(self) -> Copies | None:
        """For a snapshot of now; None where nothing of it can be copied behind training."""
        ...

    def close(self) -> None:
        """Lets go of whatever it watches."""
        ...


class Behind:
    """Finishes the ``copies`` of the snapshot ``held`` in a thread of its own, and then has it completed.

    What went wrong is its ``obstacle``. A trainer that ends first waits for it: the thread is no daemon.
    """

    def __init__(self, held: Persist, copies: Copies, complete: Callable[[Persist], None]) -> None:
        self.held = held
        self.obstacle: str | None = None
        self._copies, self._complete = copies, complete
        self._thread: threading.Thread | None = threading.Thread(target=self._finish, name="holdfast-behind")

    def start(self) -> None:
        """From here on training may change what is not copied yet."""
        assert self._thread is not None
        self._copies.start()
        try:
            self._thread.start()
        except RuntimeError:  # no more threads are allowed: whoever waited for this one would wait for ever
            self._thread = None
            self._finish()

    def is_over(self, timeout: float | None = None) -> bool:
        """Whether all is copied, or has failed, within ``timeout`` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _finish(self) -> None:
        try:
            self.obstacle = self._copies.finish()
        except Exception as error:  # whatever a device's driver may raise: the snapshot is not there
            self.obstacle = f"{type(error).__name__}: {error}"
        if self.obstacle is None:
            self._complete(self.held)
