"""Invariant: any message gives a query of plain host labels or QueryRejected; nothing else is raised."""

from __future__ import annotations

import re

from openshell.egress.dns import QueryRejected, parse_query, render_answer

HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def fuzz_dns_query(data: bytes) -> None:
    try:
        query = parse_query(data)
    except QueryRejected:
        return
    assert HOST.fullmatch(query.host)
    assert query.question in data
    assert len(query.host) < 255
    answer = render_answer(query, ("192.0.2.1",), ttl=1)
    assert answer[:2] == data[:2]
    assert query.question in answer
    # Nobody is flooded with answers to small questions.
    assert len(answer) <= len(data) + 16
