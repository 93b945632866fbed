"""Ways to hand the same bytes to an incremental parser: every outcome must be independent of the cutting."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from openshell.egress.http1.fields import HeadReader

__all__ = ["CUTS", "bytewise", "cut", "pieces", "read_head", "whole"]

Head = TypeVar("Head")


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


def read_head(reader: HeadReader[Head], parts: list[bytes]) -> tuple[Head, bytes] | None:
    """The head and everything behind it, read or not; None while it has not ended."""
    rest = list(parts)
    while rest:
        head = reader.feed(rest.pop(0))
        if head is not None:
            return head, reader.leftover + b"".join(rest)
    return None
