"""Header lists decoded by `hpack`, within bounds; a block that says the same again is not decoded again.

What a block means depends on its bytes and on the connection's table. While blocks leave the table as it is,
the same bytes mean the same list: programs repeat their requests, servers their answers. Called by `endpoint`.
"""

from typing import Final

import hpack

from openshell.egress.http2.codes import ErrorCode, PeerBroken

__all__ = ["FieldDecoder"]

# A decoded header list beyond this ends the connection: the compression state would not survive a skip.
_DECODED_LIMIT: Final = 64 * 1024
# Blocks that are remembered, and the longest of them: with their lists half a megabyte at the very worst.
_REMEMBERED: Final = 32
_LONGEST: Final = 512


class FieldDecoder:
    """The decoder of one connection."""

    __slots__ = ("_decoder", "_known", "_table")

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=_DECODED_LIMIT)
        self._table = self._decoder.header_table
        self._known: dict[bytes, list[tuple[bytes, bytes]]] = {}

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return a list that nobody may change. Raises PeerBroken."""
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._table
        maxsize, size, newest = table.maxsize, len(table.dynamic_entries), self._newest()
        try:
            fields = list[tuple[bytes, bytes]](self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise PeerBroken("http2_header_list_too_large", ErrorCode.ENHANCE_YOUR_CALM) from None
        except hpack.HPACKError:
            raise PeerBroken("http2_protocol_error", ErrorCode.COMPRESSION) from None
        # What is added comes first and is a new object; what goes makes fewer or needs an addition.
        same = maxsize == table.maxsize and size == len(table.dynamic_entries)
        if not same or self._newest() is not newest:
            self._known.clear()
        elif len(block) <= _LONGEST and sum(len(n) + len(v) for n, v in fields) <= 8 * _LONGEST:
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[block] = fields
        return fields

    def _newest(self) -> tuple[bytes, bytes] | None:
        entries = self._table.dynamic_entries
        return entries[0] if entries else None
