"""Ways to hand the same bytes to an incremental parser: every outcome must be independent of the cutting."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

__all__ = ["CUTS", "bytewise", "cut", "pieces", "whole"]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def pieces(size: int) -> Callable[[bytes], Iterator[bytes]]:
    def feed(data: bytes) -> Iterator[bytes]:
        for index in range(0, len(data), size):
            yield data[index : index + size]

    return feed


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """Cuts at places chosen by the seed."""
    chance = random.Random(seed)
    position = 0
    while position < len(data):
        size = chance.choice((1, 1, 2, 3, 7, 20, 100))
        yield data[position : position + size]
        position += size


CUTS = {"whole": whole, "bytewise": bytewise, "threes": pieces(3), "sevens": pieces(7)}
