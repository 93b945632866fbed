"""What a client hears when something goes wrong inside: a sentence, never the inside itself."""

import logging

import grpc
import pytest

from openshell._proto import openshell_pb2 as pb
from openshell.gateway.errors import ApiError, Code, error_to_status, not_found
from openshell.gateway.store import StoreConflict, StoreUnavailable, UniqueViolation


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (not_found("no such thing"), Code.NOT_FOUND, "no such thing"),
        (StoreConflict(7), Code.ABORTED, "current resource_version: 7"),
        (StoreConflict(None), Code.ABORTED, "unknown"),
        (UniqueViolation("name"), Code.INTERNAL, "name"),
        (StoreUnavailable("the disk is full"), Code.INTERNAL, "the disk is full"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_mapping(error, code, says):
    told = error_to_status(error)
    assert told is not None
    assert told[0] is code
    assert says in told[1]


def test_a_bug_is_not_translated():
    assert error_to_status(ValueError("inside")) is None


def test_every_code_is_one_of_grpc():
    for code in Code:
        assert grpc.StatusCode[code.name].value[0] == code.value


async def get(gw):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gw.api.GetSandbox(pb.GetSandboxRequest(name="one"))
    return caught.value


async def test_a_bug_is_internal_and_only_the_log_has_it(gw, monkeypatch, caplog):
    assert (await get(gw)).code() is grpc.StatusCode.NOT_FOUND

    async def broken(_fn):
        raise RuntimeError("token=abc")

    monkeypatch.setattr(gw.gateway._store, "look_up", broken)
    with caplog.at_level(logging.ERROR):
        error = await get(gw)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "abc" not in error.details()
    assert "RuntimeError" in caplog.text


async def test_an_unusable_database_is_a_sentence(gw, monkeypatch):
    async def broken(_fn):
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(gw.gateway._store, "look_up", broken)
    error = await get(gw)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the disk is full")


async def test_details_travel_as_metadata(gw, monkeypatch):
    async def refused(_fn):
        raise ApiError(Code.ABORTED, "stale", {"current_version": "3\u00e4"})

    monkeypatch.setattr(gw.gateway._store, "look_up", refused)
    error = await get(gw)
    assert dict(error.trailing_metadata())["openshell-current-version"] == "3\\xe4"


@pytest.mark.parametrize(
    "letter", ["x", "\u00e9", "%", "\n"], ids=["plain", "accent", "percent", "line"]
)
async def test_a_sentence_without_end_arrives_in_part(gw, monkeypatch, letter):
    """gRPC drops a whole status that does not fit into a header, and then nobody knows why."""

    async def refused(_fn):
        raise ApiError(Code.FAILED_PRECONDITION, f"begins: {letter * 50_000}", {"fault": "x"})

    monkeypatch.setattr(gw.gateway._store, "look_up", refused)
    error = await get(gw)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details().startswith("begins: ")
    assert error.details().endswith("[...]")
    assert dict(error.trailing_metadata())["openshell-fault"] == "x"
