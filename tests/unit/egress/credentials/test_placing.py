"""Values stand where placeholders stood, and nothing around them changes."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.fuzz_placing import (
    MARK,
    fuzz_form,
    fuzz_json,
    fuzz_scanned_name,
    fuzz_target,
    holding,
)
from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialRefused,
    CredentialSet,
    EndpointScope,
    Placeholder,
    RewrittenBody,
    first_placeholder,
    refuse_marker,
    rewrite_body,
)
from openshell.egress.credentials.placeholder import cut_placeholders

HOME = EndpointScope("api.example", 443, "/")
AWAY = EndpointScope("evil.example", 443, "/")
SECRET = "s3cret-value"
MARKED, VALUE = MARK.encode(), SECRET.encode()
JSON, FORM, TEXT = b"application/json", b"application/x-www-form-urlencoded", b"text/plain"
MISMATCH, UNAVAILABLE = "credential_endpoint_mismatch", "credential_unavailable"


def place(body, kind, *, value=SECRET, scope=HOME, is_encoded=False):
    return rewrite_body(holding(value), body, (kind,), scope, is_encoded=is_encoded, now_ms=0)


PLACED = {
    "json": (JSON, b'{"a": "' + MARKED + b'", "b": 1.0}', b'{"a": "' + VALUE + b'", "b": 1.0}'),
    "json with charset": (
        b"Application/JSON; charset=utf-8",
        b'["' + MARKED + b'"]',
        b'["' + VALUE + b'"]',
    ),
    "json of a vendor": (b"application/vnd.x+json", b'"' + MARKED + b'"', b'"' + VALUE + b'"'),
    "json, inside a string": (
        JSON,
        b'["Bearer ' + MARKED + b'\\n"]',
        b'["Bearer ' + VALUE + b'\\n"]',
    ),
    "json, others untouched": (
        JSON,
        b'["\\u00e9\\/" ,"' + MARKED + b'" ]',
        b'["\\u00e9\\/" ,"' + VALUE + b'" ]',
    ),
    "form": (FORM, b"a=1&t=" + MARKED + b"&b=%20", b"a=1&t=" + VALUE + b"&b=%20"),
    "form, encoded": (FORM, b"t=" + quote(MARK, safe="").encode(), b"t=" + VALUE),
    "text": (TEXT, b"t: " + MARKED + b".\r\n", b"t: " + VALUE + b".\r\n"),
    "csv": (b"text/csv", b"1," + MARKED, b"1," + VALUE),
}


@pytest.mark.parametrize(("kind", "body", "sent"), PLACED.values(), ids=PLACED.keys())
def test_places_in_a_body(kind, body, sent):
    outcome = place(body, kind)
    assert outcome == RewrittenBody(sent, ("KEY",))
    assert SECRET not in repr(outcome)
    assert place(body, kind, scope=AWAY) == CredentialRefused(MISMATCH, "placed-body")


REFUSED = {
    "json, a name": (JSON, b'{"' + MARKED + b'" : 1}'),
    "json, not valid": (JSON, b'{"a": ' + MARKED + b"}"),
    "json, two documents": (JSON, b'"' + MARKED + b'" "x"'),
    "json, cut": (JSON, b'{"a": "' + MARKED),
    "json, too deep": (JSON, b"[" * 20_000 + b'"' + MARKED + b'"' + b"]" * 20_000),
    "json, encoded placeholder": (JSON, b'["' + quote(MARK, safe="").encode() + b'"]'),
    "json, unknown key": (JSON, b'["' + MARKED + b'2"]'),
    "json, bare form": (JSON, b'["openshell:resolve:env:KEY"]'),
    "form, a name": (FORM, MARKED + b"=1"),
    "form, no name": (FORM, MARKED),
    "not utf-8": (TEXT, MARKED + b"\xff"),
    "multipart": (b"multipart/form-data; boundary=x", MARKED),
    "octets": (b"application/octet-stream", MARKED),
    "no type": (b"", MARKED),
    "no subtype": (b"text", MARKED),
}


@pytest.mark.parametrize(("kind", "body"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_placed_is_refused(kind, body):
    probe = place(body.replace(MARKED, b"x").replace(quote(MARK, safe="").encode(), b"x"), kind)
    if b"resolve" not in body.replace(MARKED, b""):
        assert isinstance(probe, RewrittenBody)
    assert place(body, kind) == CredentialRefused(UNAVAILABLE, "placed-body")
    elsewhere = place(body, kind, scope=AWAY)
    assert isinstance(elsewhere, CredentialRefused)
    if "unknown" not in str(body) and b"KEY2" not in body:
        assert elsewhere.code == MISMATCH


def test_a_coded_body_and_one_of_two_types_are_refused():
    body = b'["' + MARKED + b'"]'
    assert isinstance(place(body, JSON), RewrittenBody)
    assert isinstance(place(body, JSON, is_encoded=True), CredentialRefused)
    twice = rewrite_body(holding(SECRET), body, (JSON, JSON), HOME, is_encoded=False, now_ms=0)
    assert isinstance(twice, CredentialRefused)


@pytest.mark.parametrize(
    ("kind", "template"),
    [(JSON, b'{"a": "%b", "b": 1}'), (FORM, b"a=%b&b=1"), (TEXT, b"a %b b")],
    ids=["json", "form", "text"],
)
@pytest.mark.parametrize("value", ['x", "admin": "1', "x&admin=1", "a\\", "é\U0001f511", "%26"])
def test_a_value_stays_one_value(kind, template, value):
    outcome = place(template % MARKED, kind, value=value)
    assert isinstance(outcome, RewrittenBody)
    if kind == JSON:
        assert json.loads(outcome.data) == {"a": value, "b": 1}
    elif kind == FORM:
        assert outcome.data == b"a=" + quote(value, safe="").encode() + b"&b=1"
    else:
        assert outcome.data == template % value.encode()


@pytest.mark.parametrize("kind", [b"text/xml", b"text/html", b"text/csv", b"text/x-yaml"])
def test_text_with_a_structure_takes_harmless_values_only(kind):
    body = b"<a>" + MARKED + b"</a>"
    assert isinstance(place(body, kind, value="aZ0._~+/=:@-"), RewrittenBody)
    for value in ("a<b", 'a"', "a&b", "a,b", "a b", "a\tb"):
        assert isinstance(place(body, kind, value=value), CredentialRefused)


def test_a_value_that_is_a_placeholder_is_not_sent():
    for kind, body in ((JSON, b'["%b"]'), (FORM, b"a=%b"), (TEXT, b"%b")):
        outcome = place(body % MARKED, kind, value="openshell:resolve:env:v7_OTHER")
        assert isinstance(outcome, CredentialRefused)


def test_a_body_full_of_placeholders_does_not_grow_without_bound():
    for kind, body in ((JSON, b'["%b"]'), (FORM, b"a=%b"), (TEXT, b"%b")):
        assert isinstance(place(body % (MARKED + b"."), kind, value="v" * 8000), RewrittenBody)
        many = body % ((MARKED + b".") * 5000)
        assert isinstance(place(many, kind, value="v" * 8000), CredentialRefused)


def test_bodies_without_a_marker_are_left_alone():
    for kind in (JSON, FORM, b"", b"multipart/form-data"):
        assert place(b"\xff{not json", kind) == RewrittenBody(b"\xff{not json", ())


def test_an_alias_of_an_unbound_key_is_replaced_as_a_whole():
    held = CredentialSet.build(7, {"PROJECT": "p-1"}, {}, non_secret_keys=("PROJECT",))
    body = b'["\\tsk-OPENSHELL-RESOLVE-ENV-PROJECT"]'
    outcome = rewrite_body(held, body, (JSON,), HOME, is_encoded=False, now_ms=0)
    assert outcome == RewrittenBody(b'["\\tp-1"]', ("PROJECT",))


def test_the_first_of_two_placeholders_of_different_endpoints_decides_nothing():
    away = Binding((BoundEndpoint("other.example", 443),), "q")
    home = Binding((BoundEndpoint("api.example", 443),), "p")
    held = CredentialSet.build(7, {"KEY": "a", "AWAY": "b"}, {"KEY": home, "AWAY": away})
    body = b'["' + MARKED + b'", "openshell:resolve:env:v7_AWAY"]'
    for text in (body, b"x" + body):
        outcome = rewrite_body(held, text, (JSON,), HOME, is_encoded=False, now_ms=0)
        assert isinstance(outcome, CredentialRefused)
        assert outcome.code == MISMATCH


def test_markers_in_bodies_that_nobody_opened():
    held = holding(SECRET)
    key, other = Placeholder("KEY", 7), Placeholder("OTHER", 7)
    assert refuse_marker(held, key, AWAY, now_ms=0).code == MISMATCH
    for found, scope in ((key, HOME), (other, AWAY), (None, AWAY)):
        refused = refuse_marker(held, found, scope, now_ms=0)
        assert refused == CredentialRefused(UNAVAILABLE, "request-body")


def test_text_is_taken_apart():
    key = Placeholder("KEY", 7)
    assert cut_placeholders(b"a" + MARKED + b"-b") == [b"a", key, b"-b"]
    assert cut_placeholders(b"x") == [b"x"]
    assert cut_placeholders(b"x sk-OPENSHELL-RESOLVE-ENV-A y") == [b"x ", Placeholder("A"), b" y"]
    for bad in (
        b"openshell:resolve:env:",
        b"OPENSHELL-RESOLVE-ENV-A",
        b"a" * 300 + b"OPENSHELL-RESOLVE-ENV-A",
    ):
        assert cut_placeholders(bad) is None


@pytest.mark.parametrize(
    ("data", "key", "is_whole"),
    [
        (MARKED, "KEY", False),
        (MARKED + b'"', "KEY", True),
        (MARKED + b"%", "KEY", False),
        (MARKED + b"%4", "KEY", False),
        (MARKED + b"%22", "KEY", True),
        (quote(MARK, safe="").encode() + b"&", "KEY", True),
        (b'x "sk-OPENSHELL-RESOLVE-ENV-A"', "A", True),
        (b"nothing", None, False),
    ],
)
def test_whose_a_marker_is(data, key, is_whole):
    placeholder, whole = first_placeholder(data)
    assert (placeholder and placeholder.key, whole) == (key, is_whole)


values = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=12
) | st.sampled_from(["..", ".", "a/b", ";x", "..;", '"', "\\", "&a=1", "%2e%2e", "%2F", "x"])
spelled = st.sampled_from([MARK, quote(MARK, safe=""), MARK.replace(":", "%3a")])
plain_text = st.text(st.sampled_from('ab/.;=&%25+? "\\[]{}:,'), max_size=8)
pieces = st.lists(plain_text | spelled, max_size=5).map("".join)


@given(pieces, pieces, values)
@example("/a/" + MARK, "", "..")
@example("/." + MARK, "", ".")
@example("/a;" + MARK, "", "x")
def test_a_target_keeps_its_structure(path, query, value):
    fuzz_target(f"/{path}?{query}".replace(" ", "%20").encode(), value)


@given(pieces, values)
def test_a_form_keeps_its_structure(body, value):
    fuzz_form(body.encode(), value)


documents = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.builds("{}{}{}".format, plain_text, spelled, plain_text),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | spelled, inner, max_size=3)
    ),
    max_leaves=6,
)


@given(documents, values, st.booleans(), st.sampled_from([None, 1]))
def test_a_json_document_keeps_its_structure(document, value, ascii_only, indent):
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    fuzz_json(text.encode("utf-8", "surrogatepass"), value)


@given(
    st.text(st.sampled_from('{}[]",:\\u01ab '), max_size=12),
    st.text(st.sampled_from('{}[]",:\\n '), max_size=12),
    values,
)
def test_nothing_that_is_almost_json_passes_wrongly(before, after, value):
    fuzz_json((before + MARK + after).encode(), value)


@given(
    st.lists(spelled | st.text(st.sampled_from('a%3A_-".O'), max_size=40), max_size=4).map("".join),
    st.integers(1, 9),
)
@example("x" * 40 + MARK + "_MORE-x", 1)
def test_a_name_is_learnt_however_the_stream_is_cut(text, cut):
    fuzz_scanned_name(text.encode(), cut)
