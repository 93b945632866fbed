"""The loop of an SFTP server on two descriptors, until its input ends or is no SFTP."""

from __future__ import annotations

import os

from openshell.supervisor.sftp.files import FileServer
from openshell.supervisor.sftp.packets import MAX_PACKET, Malformed, frame

__all__ = ["serve"]


def serve(reading: int, writing: int, home: str) -> int:
    """Answers requests one by one; the exit status.

    Args:
        reading: Descriptor that requests come from; blocking.
        writing: Descriptor for the answers; blocking.
        home: What `~` stands for.
    """
    server = FileServer(os.fsencode(home))
    try:
        while (packet := _packet(reading)) is not None:
            _write_all(writing, frame(server.answer(packet)))
    except (Malformed, BrokenPipeError):
        return 1
    finally:
        server.close()
    return 0


def _packet(reading: int) -> bytes | None:
    head = _exactly(reading, 4)
    if head is None:
        return None
    size = int.from_bytes(head, "big")
    if not 1 <= size <= MAX_PACKET:
        raise Malformed("a packet is larger than packets are")
    body = _exactly(reading, size)
    if body is None:
        raise Malformed("the input ends within a packet")
    return body


def _exactly(reading: int, size: int) -> bytes | None:
    """None at the end of the input, if nothing of it was there."""
    parts: list[bytes] = []
    missing = size
    while missing:
        part = os.read(reading, missing)
        if not part:
            if parts:
                raise Malformed("the input ends within a packet")
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _write_all(writing: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(writing, view) :]
