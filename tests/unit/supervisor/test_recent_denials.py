"""The last refusals: kept, bounded, newest first, without queries."""

from openshell import ocsf
from openshell.supervisor.recent_denials import RecentDenials


def event(number, action=ocsf.Action.DENIED, **fields):
    return ocsf.HttpEvent(
        **{
            "time_ms": 1_700_000_000_123 + number,
            "action": action,
            "disposition": ocsf.Disposition.BLOCKED,
            "method": "GET",
            "scheme": "http",
            "host": "api.example.com",
            "port": 80,
            "path": f"/{number}",
        }
        | fields
    )


def test_refusals_alone_are_kept_and_everything_goes_on():
    seen, ring = [], RecentDenials()
    emit = ring.before(seen.append)
    for number in range(150):
        emit(event(number))
        emit(event(number, ocsf.Action.ALLOWED))
        emit(ocsf.ConfigEvent(time_ms=0, state="loaded", message="x"))
    assert len(seen) == 450
    assert len(ring.lines(1000)) == 100
    newest, before = ring.lines(2)
    assert "/149" in newest
    assert "/148" in before
    assert newest.startswith("2023-11-14T22:13:20.272Z OCSF HTTP:GET ")
    assert " DENIED " in newest


def test_queries_and_long_lines_do_not_get_through():
    ring = RecentDenials()
    emit = ring.before(lambda _event: None)
    emit(event(1, path="/a?token=s3cret&x=1"))
    emit(event(2, path="/" + "é" * 9000))
    cut, redacted = ring.lines(10)
    assert "s3cret" not in redacted
    assert "/a?[redacted]" in redacted
    assert len(cut.encode()) <= 4096 + len("...[truncated]")
    assert cut.endswith("...[truncated]")
