"""Errors in the dialect of the caller, and the tokens that answers name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.inference import answers
from openshell.egress.inference.answers import not_served, plain, problem, stream_error
from openshell.egress.inference.patterns import Dialect
from openshell.egress.inference.usage import StreamUsage, Usage, usage_of

PROBLEMS = {
    "NOT_CONFIGURED": (503, "cluster inference is not configured"),
    "NO_ROUTE": (400, "no compatible inference route available"),
    "UNREADABLE": (400, "the request body must be a JSON object"),
    "UNAVAILABLE": (503, "inference service unavailable"),
    "BROKEN": (502, "inference service error"),
}


def said(denial):
    fields = dict(denial.headers)
    assert int(fields[b"Content-Length"]) == len(denial.body)
    assert fields[b"Connection"] == b"close"
    return denial.status, json.loads(denial.body)


@pytest.mark.parametrize(("name", "wanted"), PROBLEMS.items(), ids=PROBLEMS.keys())
def test_a_problem_in_each_dialect(name, wanted):
    what = getattr(answers, name)
    status, document = said(problem(what, Dialect.OPENAI))
    assert (status, document["error"]["message"]) == wanted
    assert isinstance(document["error"]["type"], str)
    status, document = said(problem(what, Dialect.ANTHROPIC))
    assert (status, document["error"]["message"], document["type"]) == (*wanted, "error")
    status, document = said(problem(what, Dialect.BEDROCK))
    assert (status, document["message"]) == wanted


def test_what_is_not_configured_says_how_to():
    for dialect in Dialect:
        document = said(problem(answers.NOT_CONFIGURED, dialect))[1]
        assert document["hint"] == "run: openshell inference set --help"


def test_what_is_not_served():
    assert said(not_served()) == (403, {"error": "connection not allowed by policy"})


def test_plain_text():
    denial = plain(413, "Payload Too Large")
    assert (denial.status, denial.body) == (413, b"Payload Too Large")
    assert denial.headers[0] == (b"Content-Type", b"text/plain; charset=utf-8")


@pytest.mark.parametrize("dialect", Dialect)
def test_the_event_of_a_cut_stream(dialect):
    event = stream_error("upstream read error", dialect).decode()
    assert event.startswith("\n\n")
    assert event.endswith("\n\n")
    (data,) = [line[6:] for line in event.split("\n") if line.startswith("data: ")]
    document = json.loads(data)
    assert document["error"] == {
        "message": "response truncated: upstream read error",
        "type": "proxy_stream_error",
    }
    assert ("event: error\n" in event) is (dialect is Dialect.ANTHROPIC)


WHOLE = {
    "openai": (b'{"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}', (3, 5)),
    "responses": (b'{"usage":{"input_tokens":3,"output_tokens":5}}', (3, 5)),
    "embeddings": (b'{"data":[],"usage":{"prompt_tokens":3}}', (3, None)),
    "nothing": (b'{"id":"x"}', (None, None)),
    "null": (b'{"usage":null}', (None, None)),
    "no JSON": (b"oops", (None, None)),
    "no number": (b'{"usage":{"prompt_tokens":"3"}}', (None, None)),
    "negative": (b'{"usage":{"prompt_tokens":-3}}', (None, None)),
    "absurd": (b'{"usage":{"prompt_tokens":99999999999999}}', (None, None)),
}
STREAMS = {
    "openai": (
        (
            b'data: {"choices":[],"usage":null}\n\n'
            b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\r\n\r\n'
            b"data: [DONE]\n\n"
        ),
        (3, 5),
    ),
    "anthropic": (
        (
            b'event: message_start\ndata: {"message":{"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
            b'event: message_delta\ndata: {"usage":{"output_tokens":5}}\n\n'
        ),
        (3, 5),
    ),
    "responses": (b'data: {"response":{"usage":{"input_tokens":3,"output_tokens":5}}}\n\n', (3, 5)),
    "said by a model": (b'data: {"choices":[{"text":"\\"usage\\": 9"}]}\n\n', (None, None)),
    "in a long line": (
        b'data: {"x":"' + b"y" * 70_000 + b'","usage":{"prompt_tokens":3}}\n'
        b'data: {"usage":{"completion_tokens":5}}\n',
        (None, 5),
    ),
}


@pytest.mark.parametrize(("body", "wanted"), WHOLE.values(), ids=WHOLE.keys())
def test_the_tokens_of_a_whole_answer(body, wanted):
    assert usage_of(body) == Usage(*wanted)


@pytest.mark.parametrize(("body", "wanted"), STREAMS.values(), ids=STREAMS.keys())
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_the_tokens_of_a_stream_however_it_is_cut(body, wanted, step):
    counter = StreamUsage()
    for begin in range(0, len(body), step):
        counter.feed((memoryview(body)[begin : begin + step],))
    assert counter.usage == Usage(*wanted)


@given(st.lists(st.binary(max_size=64)))
def test_whatever_comes_counting_does_not_fail(pieces):
    counter = StreamUsage()
    counter.feed(pieces)
    usage_of(b"".join(pieces))
