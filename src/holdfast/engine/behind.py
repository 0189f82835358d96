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
        self.obstacle: str | None = "it was interrupted."
        self._copies, self._complete = copies, complete
        self._thread = threading.Thread(target=self._finish, name="holdfast-behind")
        self._taken = threading.Lock()
        self._over = threading.Event()
        self._over.set()  # until it is started there is nothing to wait for

    def start(self) -> None:
        """From here on training may change what is not copied yet. What is raised here leaves nobody waiting."""
        try:
            self._over.clear()
            self._copies.start()
            self._thread.start()
        except BaseException as error:  # such as a lack of memory, or of threads: all is copied now instead
            self._finish(error)
            if not isinstance(error, Exception):
                raise

    def is_over(self, timeout: float | None = None) -> bool:
        """Whether all is copied, or has failed, within ``timeout`` seconds."""
        return self._over.wait(timeout)

    def _finish(self, cause: BaseException | None = None) -> None:
        if not self._taken.acquire(blocking=False):
            return  # the thread had begun already when its start was interrupted
        try:
            obstacle = self._copies.finish()
            if obstacle is None:
                self._complete(self.held)
            self.obstacle = obstacle
        except Exception as error:  # whatever a device's driver may raise: the snapshot is not there
            why = cause or error
            self.obstacle = f"{type(why).__name__}: {why}"
        finally:
            self._over.set()
