"""A batch as a sampler hands it to a loader."""

from __future__ import annotations


class Batch(list[int]):
    """The numbers of its samples, and the ``epoch`` that they are drawn for, which a worker cannot know otherwise.

    >>> Batch(3, [7, 1]), Batch(3, [7, 1]).epoch
    ([7, 1], 3)
    """

    __slots__ = ("epoch",)

    def __init__(self, epoch: int, samples: list[int]) -> None:
        super().__init__(samples)
        self.epoch = epoch

    def __reduce__(self) -> tuple[type[Batch], tuple[int, list[int]]]:
        return Batch, (self.epoch, list(self))
