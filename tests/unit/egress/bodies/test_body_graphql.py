"""GraphQL requests: every row of the contract's tables, and documents of every kind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.egress.bodies.graphql import (
    MAX_OPERATIONS,
    read_graphql_body,
    read_graphql_payload,
    read_graphql_query,
)
from openshell.egress.bodies.strict_json import MAX_DEPTH
from openshell.egress.bodies.tokens import MAX_TOKENS
from openshell.policy.messages import GraphqlCall, GraphqlRequest


def post(query: str, **more: object) -> GraphqlRequest:
    return read_graphql_body(json.dumps({"query": query, **more}).encode())


def nested(depth: int) -> str:
    return "{a" * depth + "}" * depth


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("{ b a }", GraphqlCall("query", "", ("a", "b")), id="shorthand"),
        pytest.param("query Q { a }", GraphqlCall("query", "Q", ("a",)), id="named"),
        pytest.param("mutation M { x: drop }", GraphqlCall("mutation", "M", ("drop",)), id="alias"),
        pytest.param("subscription { s { t } }", GraphqlCall("subscription", "", ("s",)), id="root"),
        pytest.param(
            "{ ...F } fragment F on Q { secret ...F ... on Q { deep } }",
            GraphqlCall("query", "", ("deep", "secret")),
            id="fragments, one of itself",
        ),
        pytest.param("{ a ...Unknown }", GraphqlCall("query", "", ("a",)), id="unknown spread"),
        pytest.param("{ a @skip(if: true) }", GraphqlCall("query", "", ("a",)), id="directive"),
        pytest.param('{ a(x: """ } mutation { b }""") }', GraphqlCall("query", "", ("a",)),
                     id="braces in a block string"),
        pytest.param("# mutation { b }\n{ a }", GraphqlCall("query", "", ("a",)), id="comment"),
    ],
)  # fmt: skip
def test_what_a_document_asks_for(query: str, expected: GraphqlCall) -> None:
    assert post(query) == GraphqlRequest((expected,))


@pytest.mark.parametrize(
    ("query", "name", "error"),
    [
        pytest.param("{", "", "cannot be parsed", id="cut"),
        pytest.param("}", "", "cannot be parsed", id="reversed"),
        pytest.param("{}", "", "no field", id="empty selection"),
        pytest.param("fragment F on Q { a }", "", "no operation", id="fragment alone"),
        pytest.param("type A { b: C }", "", "no operation", id="schema"),
        pytest.param("query A {a} query B {b}", "", "several operations", id="which"),
        pytest.param("query A {a}", "B", "names no operation", id="unknown name"),
        pytest.param("query A {a} mutation A {b}", "A", "more than one", id="same name twice"),
        pytest.param("{ a " * (MAX_TOKENS // 2 + 1), "", "deeper than", id="depth first"),
        pytest.param("{" + "a " * MAX_TOKENS + "}", "", "tokens", id="tokens"),
        pytest.param("#\n" * (MAX_TOKENS + 1) + "{a}", "", "comments", id="comments"),
        pytest.param(nested(MAX_DEPTH + 1), "", "deeper than", id="nesting"),
        pytest.param("{a(x: " + "[" * 200 + "]" * 200 + ")}", "", "deeper than", id="lists"),
    ],
)
def test_documents_that_are_refused(query: str, name: str, error: str) -> None:
    found = post(query, operationName=name)
    assert error in found.error
    assert not found.operations


def test_the_deepest_document_is_read() -> None:
    assert post(nested(MAX_DEPTH)).operations == (GraphqlCall("query", "", ("a",)),)


def test_the_named_operation_counts() -> None:
    found = post("query A {a} mutation B {b}", operationName="B")
    assert found.operations == (GraphqlCall("mutation", "B", ("b",)),)


def test_persisted_operations() -> None:
    hashed = {"extensions": {"persistedQuery": {"sha256Hash": "ab", "version": 1}}}
    assert read_graphql_payload({**hashed, "id": "ab"}).operations[0].persisted == "ab"
    assert read_graphql_payload({"documentId": "d"}).operations == (GraphqlCall("", "", (), "d"),)
    assert read_graphql_payload({"query": "{a}", **hashed}).operations[0].operation_type == "query"
    assert "neither" in read_graphql_payload({"operationName": "A"}).error
    assert "not text" in read_graphql_payload({"query": ["{a}"]}).error


OTHER_READERS = {
    "hash and another id": (
        {"id": "x", "extensions": {"persistedQuery": {"sha256Hash": "ab"}}},
        "one",
    ),
    "two ids": ({"documentId": "d", "queryId": "q"}, "one"),
    "document and id": ({"query": "{a}", "documentId": "d"}, "an id"),
    "another case": ({"query": "{a}", "Query": "mutation {b}"}, "'query' must be spelled"),
    "a long s": ({"id": "a", "extenſions": {}}, "'extensions' must be spelled"),
    "another case in extensions": (
        {"id": "a", "extensions": {"PersistedQuery": {"sha256Hash": "b"}}},
        "'persistedQuery' must be spelled",
    ),
    "another case of the hash": (
        {"extensions": {"persistedQuery": {"sha256Hash": "a", "sha256hash": "b"}}},
        "'sha256Hash' must be spelled",
    ),
    "a hash that is no text": (
        {"id": "a", "extensions": {"persistedQuery": {"sha256Hash": 1}}},
        "text",
    ),
}


@pytest.mark.parametrize(("payload", "error"), OTHER_READERS.values(), ids=OTHER_READERS.keys())
def test_what_another_reader_would_take_for_another_operation(payload: object, error: str) -> None:
    assert error in read_graphql_payload(payload).error


def test_batches() -> None:
    body = json.dumps([{"query": "{a}"}, {"query": "mutation {b}"}]).encode()
    assert [call.operation_type for call in read_graphql_body(body).operations] == [
        "query",
        "mutation",
    ]
    assert "empty batch" in read_graphql_body(b"[]").error
    assert "not a JSON object" in read_graphql_body(b'[{"query":"{a}"}, 1]').error
    assert (
        "more than"
        in read_graphql_body(json.dumps([{"query": "{a}"}] * (MAX_OPERATIONS + 1)).encode()).error
    )
    assert "twice" in read_graphql_body(b'{"query":"{a}","query":"mutation{b}"}').error


def test_tokens_are_counted_over_a_batch() -> None:
    def batch(count: int) -> GraphqlRequest:
        document = {"query": "{" + "a " * (MAX_TOKENS // 10 - 2) + "}"}
        return read_graphql_body(json.dumps([document] * count).encode())

    assert len(batch(10).operations) == 10
    assert "tokens" in batch(11).error
    # What is long but has few of them is read.
    assert not post('{a(x: "' + "y" * 2 * MAX_TOKENS + '")}').error


def test_queries_of_a_get() -> None:
    assert read_graphql_query({"query": ["{a}"]}).operations == (GraphqlCall("query", "", ("a",)),)
    assert "repeated" in read_graphql_query({"query": ["{a}", "mutation{b}"]}).error
    assert "id parameter" in read_graphql_query({"id": ["1"], "queryId": ["2"]}).error
    hashed = '{"persistedQuery":{"sha256Hash":"ab"}}'
    assert read_graphql_query({"extensions": [hashed]}).operations[0].persisted == "ab"
    assert "no JSON" in read_graphql_query({"extensions": ["{"]}).error
    assert "no JSON" in read_graphql_query({"id": ["1"], "extensions": ['{"a":1,"a":2}']}).error
    assert "neither" in read_graphql_query({"query": [""]}).error


@settings(max_examples=200)
@given(st.text(alphabet='{}()[]:!@$"#. \n\\abquerymutationfragment', max_size=60) | st.text())
def test_any_document_is_an_answer(query: str) -> None:
    found = post(query)
    assert bool(found.error) != bool(found.operations)
    if found.operations:
        assert found.operations[0].operation_type in ("query", "mutation", "subscription")


def test_the_library_is_not_loaded_before_the_first_document() -> None:
    script = "import sys, openshell.egress.bodies.graphql; print('graphql' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
