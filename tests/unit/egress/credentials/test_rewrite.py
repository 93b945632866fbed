"""Where in a head a credential may stand, and that nothing with a marker leaves."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_credentials import SECRET, SET, fuzz_rewrite
from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialRefused,
    CredentialSet,
    EndpointScope,
    Rewritten,
    rewrite_head,
)
from openshell.egress.http1 import NO_BODY, RequestHead

HOME = EndpointScope("api.example", 443, "/")
AWAY = EndpointScope("evil.example", 443, "/")
MARK = b"openshell:resolve:env:v7_KEY"
VALUE = SECRET.encode()


def head(*fields: tuple[bytes, bytes], target: bytes = b"/") -> RequestHead:
    return RequestHead(b"GET", target, b"HTTP/1.1", ((b"Host", b"api.example"), *fields), NO_BODY)


def basic(plain: bytes) -> bytes:
    return b"Basic " + b64encode(plain)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"X-Api-Key", MARK, VALUE),
        (b"Authorization", b"Bearer " + MARK, b"Bearer " + VALUE),
        (b"authorization", b"token " + MARK, b"token " + VALUE),
        (b"Authorization", b"Basic " + MARK, b"Basic " + VALUE),
        (b"Authorization", basic(b"user:" + MARK), basic(b"user:" + VALUE)),
        (b"Authorization", basic(MARK + b":"), basic(VALUE + b":")),
        (b"Authorization", basic(MARK + b":" + MARK), basic(VALUE + b":" + VALUE)),
        (b"Authorization", basic(b":" + MARK).rstrip(b"="), basic(b":" + VALUE)),
    ],
)
def test_places(name: bytes, value: bytes, expected: bytes) -> None:
    outcome = rewrite_head(SET, head((name, value)), HOME, now_ms=0)
    assert isinstance(outcome, Rewritten)
    assert outcome.used == ("KEY",)
    assert outcome.head.headers[1] == (name, expected)
    assert SECRET not in repr(outcome)
    refused = rewrite_head(SET, head((name, value)), AWAY, now_ms=0)
    assert refused == CredentialRefused("credential_endpoint_mismatch", "header")


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((b"Authorization", b"Bearer sk-real"),),
        ((b"Authorization", basic(b"user:pass")),),
        ((b"Authorization", b"Basic ???"),),
        ((b"Authorization", b"Basic "),),
    ],
)
def test_heads_without_placeholders_are_left_alone(fields) -> None:
    request = head(*fields)
    for scope in (HOME, AWAY):
        assert rewrite_head(SET, request, scope, now_ms=0) == Rewritten(request, ())


REFUSED = {
    "unknown_key": head((b"X-Api-Key", b"openshell:resolve:env:v7_OTHER")),
    "unknown_revision": head((b"X-Api-Key", b"openshell:resolve:env:v8_KEY")),
    "bare_form": head((b"X-Api-Key", b"openshell:resolve:env:KEY")),
    "alias": head((b"X-Api-Key", b"sk-OPENSHELL-RESOLVE-ENV-KEY")),
    "malformed": head((b"X-Api-Key", b"openshell:resolve:env:")),
    "inside_a_value": head((b"Cookie", b"a=" + MARK)),
    "two_in_a_value": head((b"X-Api-Key", MARK + b" " + MARK)),
    "behind_two_spaces": head((b"Authorization", b"Bearer  " + MARK)),
    "scheme_not_token": head((b"Authorization", b"Be(arer " + MARK)),
    "text_behind": head((b"Authorization", b"Bearer " + MARK + b" x")),
    "percent_encoded": head((b"X-Api-Key", MARK.replace(b":", b"%3A"))),
    "field_name": head((b"OPENSHELL-RESOLVE-ENV-KEY", b"x")),
    "query_name": head(target=b"/?" + MARK + b"=1"),
    "query_without_equals": head(target=b"/?a=1&" + MARK),
    "query_bare_form": head(target=b"/?k=openshell:resolve:env:KEY"),
    "path_unknown_key": head(target=b"/" + MARK + b"2"),
    "path_alias_not_whole": head(target=b"/x%20sk-OPENSHELL-RESOLVE-ENV-KEY"),
    "path_malformed": head(target=b"/openshell:resolve:env:"),
    "good_header_and_query_name": head((b"X-Api-Key", MARK), target=b"/?" + MARK),
    "good_header_and_bad_one": head((b"X-Api-Key", MARK), (b"X-Other", b"a" + MARK)),
    "host": RequestHead(
        b"GET", b"/", b"HTTP/1.1", ((b"Host", b"sk-OPENSHELL-RESOLVE-ENV-KEY"),), NO_BODY
    ),
    "transfer_encoding": head((b"Transfer-Encoding", MARK)),
    "basic_inside_password": head((b"Authorization", basic(b"user:x" + MARK))),
    "basic_no_colon": head((b"Authorization", basic(b"xOPENSHELL-RESOLVE-ENV-KEY"))),
    "method": RequestHead(
        b"sk-OPENSHELL-RESOLVE-ENV-KEY", b"/", b"HTTP/1.1", ((b"Host", b"a"),), NO_BODY
    ),
}


@pytest.mark.parametrize("request_head", REFUSED.values(), ids=REFUSED.keys())
def test_markers_elsewhere_refuse_the_request(request_head: RequestHead) -> None:
    outcome = rewrite_head(SET, request_head, HOME, now_ms=0)
    assert isinstance(outcome, CredentialRefused)
    assert outcome.code == "credential_unavailable"
    in_target = request_head.target != b"/"
    assert outcome.place == ("request-target" if in_target else "header")


TARGETS = {
    "segment": (b"/v1/" + MARK + b"/x", b"/v1/" + VALUE + b"/x"),
    "part of a segment": (b"/bot" + MARK + b"/send", b"/bot" + VALUE + b"/send"),
    "ended by a dash": (b"/a-" + MARK + b"-b", b"/a-" + VALUE + b"-b"),
    "two in a segment": (b"/" + MARK + b"." + MARK, b"/" + VALUE + b"." + VALUE),
    "encoded": (b"/" + MARK.replace(b":", b"%3a"), b"/" + VALUE),
    "query": (b"/x?k=" + MARK, b"/x?k=" + VALUE),
    "query, encoded": (b"/?a=%2f&k=" + MARK.replace(b":", b"%3A"), b"/?a=%2f&k=" + VALUE),
    "part of a query value": (b"/?k=a+b" + MARK + b"%26c", b"/?k=a%20b" + VALUE + b"%26c"),
    "two values": (b"/?k=" + MARK + b"&l=1&m=" + MARK, b"/?k=" + VALUE + b"&l=1&m=" + VALUE),
    "both": (b"/" + MARK + b"?k=" + MARK, b"/" + VALUE + b"?k=" + VALUE),
    "kept slash": (b"/a%2Fb" + MARK, b"/a%2Fb" + VALUE),
}


@pytest.mark.parametrize(("target", "sent"), TARGETS.values(), ids=TARGETS.keys())
def test_places_in_the_target(target: bytes, sent: bytes) -> None:
    outcome = rewrite_head(SET, head(target=target), HOME, now_ms=0)
    assert isinstance(outcome, Rewritten)
    assert outcome.head.target == sent
    assert outcome.used == ("KEY",)
    refused = rewrite_head(SET, head(target=target), AWAY, now_ms=0)
    assert refused == CredentialRefused("credential_endpoint_mismatch", "request-target")


def test_a_placeholder_encoded_twice_is_text() -> None:
    for target in (b"/" + MARK.replace(b":", b"%253A"), b"/?k=" + MARK.replace(b":", b"%253A")):
        assert rewrite_head(SET, head(target=target), HOME, now_ms=0) == Rewritten(
            head(target=target), ()
        )


@pytest.mark.parametrize(
    "request_head",
    [
        head((b"Cookie", b"a=" + MARK)),
        head((b"X-Api-Key", b"x" + MARK.replace(b":", b"%3A"))),
        head(target=b"/?" + MARK + b"=1"),
        head(target=b"/?x=openshell:resolve:env:KEY"),
        head((b"X-Api-Key", b"sk-OPENSHELL-RESOLVE-ENV-KEY")),
        head((b"X-Unknown", b"openshell:resolve:env:v7_OTHER"), (b"Cookie", b"a=" + MARK)),
    ],
)
def test_elsewhere_it_is_a_mismatch_even_where_nothing_is_replaced(request_head) -> None:
    outcome = rewrite_head(SET, request_head, AWAY, now_ms=0)
    assert isinstance(outcome, CredentialRefused)
    assert outcome.code == "credential_endpoint_mismatch"


def valued(value: str) -> CredentialSet:
    return CredentialSet.build(
        7, {"KEY": value}, {"KEY": Binding((BoundEndpoint("api.example", 443),), "p")}
    )


@pytest.mark.parametrize("value", ["a/b", "a\\b", "a?b", "a#b", "..", ".", ";x", "..;x", "a\r\nb"])
def test_a_value_cannot_change_a_path(value: str) -> None:
    outcome = rewrite_head(valued(value), head(target=b"/x/" + MARK + b"/y"), HOME, now_ms=0)
    assert outcome == CredentialRefused("credential_unavailable", "request-target")


@pytest.mark.parametrize("target", [b"/." + MARK, b"/a%2F." + MARK, b"/a%5C." + MARK])
def test_a_value_cannot_make_a_dot_segment_with_what_is_there(target: bytes) -> None:
    assert isinstance(rewrite_head(valued("x"), head(target=target), HOME, now_ms=0), Rewritten)
    outcome = rewrite_head(valued("."), head(target=target), HOME, now_ms=0)
    assert isinstance(outcome, CredentialRefused)


def test_values_are_encoded_for_their_place() -> None:
    held = valued("a&b=c d%2F+;é")
    outcome = rewrite_head(held, head(target=b"/" + MARK + b"?k=" + MARK), HOME, now_ms=0)
    # In a path nothing of it is a border; the semicolon is, for servers that know parameters.
    assert isinstance(outcome, Rewritten)
    assert outcome.head.target == (b"/a&b=c%20d%252F+%3B%C3%A9?k=a%26b%3Dc%20d%252F%2B%3B%C3%A9")


def test_a_user_with_a_colon_does_not_move_the_border() -> None:
    credentials = CredentialSet.build(
        7, {"KEY": "a:b"}, {"KEY": Binding((BoundEndpoint("api.example", 443),), "p")}
    )
    outcome = rewrite_head(
        credentials, head((b"Authorization", basic(MARK + b":x"))), HOME, now_ms=0
    )
    assert isinstance(outcome, CredentialRefused)


@pytest.mark.parametrize("method", [b"TRACE", b"trace", b"TRACK"])
@pytest.mark.parametrize("value", [MARK, b"Bearer " + MARK, basic(b"user:" + MARK)])
def test_no_value_goes_where_the_answer_repeats_the_request(method: bytes, value: bytes) -> None:
    """Otherwise the agent reads in the response what it must not know."""
    request = head((b"Authorization", value))
    assert isinstance(rewrite_head(SET, request, HOME, now_ms=0), Rewritten)
    echoed = RequestHead(method, b"/", b"HTTP/1.1", request.headers, NO_BODY)
    outcome = rewrite_head(SET, echoed, HOME, now_ms=0)
    assert outcome == CredentialRefused("credential_unavailable", "method")
    plain = RequestHead(method, b"/", b"HTTP/1.1", head().headers, NO_BODY)
    assert rewrite_head(SET, plain, HOME, now_ms=0) == Rewritten(plain, ())


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "a\x0bb", "a\x85b", "a\u2028b", "", "\ud800"]
)
def test_a_value_cannot_add_a_field(value: str) -> None:
    credentials = CredentialSet.build(
        7, {"KEY": value}, {"KEY": Binding((BoundEndpoint("api.example", 443),), "p")}
    )
    for field in (MARK, b"Bearer " + MARK, basic(b"user:" + MARK)):
        request = head((b"Authorization", field))
        assert isinstance(rewrite_head(SET, request, HOME, now_ms=0), Rewritten)
        outcome = rewrite_head(credentials, request, HOME, now_ms=0)
        assert outcome == CredentialRefused("credential_unavailable", "header")


def test_a_value_that_is_a_placeholder_is_not_sent() -> None:
    """A provider's value must not be a way to have another key's placeholder resolved or leaked."""
    endpoint = BoundEndpoint("api.example", 443)
    bindings = {"KEY": Binding((endpoint,), "p"), "OTHER": Binding((endpoint,), "q")}
    credentials = CredentialSet.build(
        7, {"KEY": "openshell:resolve:env:v7_OTHER", "OTHER": "x"}, bindings
    )
    outcome = rewrite_head(credentials, head((b"X-Api-Key", MARK)), HOME, now_ms=0)
    assert outcome == CredentialRefused("credential_unavailable", "header")


def test_without_credentials_a_marker_is_refused() -> None:
    outcome = rewrite_head(CredentialSet(), head((b"X-Api-Key", MARK)), HOME, now_ms=0)
    assert outcome == CredentialRefused("credential_unavailable", "header")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"X-Key", b"Authorization", b"Cookie", b"Host"]),
            st.sampled_from([b"", b"Bearer ", b"Basic ", b"a=", b"  "]),
            st.sampled_from(
                [MARK, MARK[:-1], MARK.replace(b":", b"%3A"), b"x", b64encode(b"u:" + MARK)]
            ),
            st.sampled_from([b"", b" ", b";", b"=", MARK]),
        ),
        max_size=4,
    )
)
def test_no_marker_leaves(fields) -> None:
    lines = [name + b": " + b"".join(parts) for name, *parts in fields]
    fuzz_rewrite(b"\r\n".join([b"GET / HTTP/1.1", *lines]) + b"\r\n\r\n")
