"""Signatures against AWS's published examples, botocore's own clients and a verifier of our own."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import botocore.auth
import botocore.session
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialRefused,
    CredentialSet,
    EndpointScope,
    find_marker,
)
from openshell.egress.http1 import NO_BODY, Headers, Length, RequestHead, render_request_head
from openshell.egress.signer import load_signer
from openshell.egress.signing import EMPTY_DIGEST, digest_of, find_signing_keys, sign
from openshell.egress.signing_plan import Payload, SigningFault, SigningPlan
from openshell.policy.target import canonicalize
from support.aws_signatures import find_fault, signed_fields

ACCESS, SECRET, TOKEN = (
    "AKIDOURS0000000000",
    "our/secret+KEY/that-never-leaves",
    "our/session+token==",
)
MOMENT = datetime(2026, 11, 24, 16, 30, 5, tzinfo=UTC)
NOW_MS = int(MOMENT.timestamp() * 1000)
PLACEHOLDER = b"openshell:resolve:env:v1_AWS_ACCESS_KEY_ID"
STOLEN = b"AWS4-HMAC-SHA256 Credential=AKIDCLIENT/20200101/us-east-1/s3/aws4_request, Signature=0"


def held(host: str = "**.amazonaws.com", **values: str) -> CredentialSet:
    binding = Binding((BoundEndpoint(host, 443),), "provider/aws")
    return CredentialSet.build(1, values, dict.fromkeys(values, binding))


def keys(
    host: str = "**.amazonaws.com",
    *,
    access: str = ACCESS,
    secret: str = SECRET,
    token: str = "",
) -> CredentialSet:
    values = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    return held(host, **values, **({"AWS_SESSION_TOKEN": token} if token else {}))


def request(
    method: bytes, host: str, target: bytes, *fields: tuple[bytes, bytes], body: bytes = b""
) -> RequestHead:
    """A head as it is prepared for the wire: the Host field first, the target canonical."""
    canonical = canonicalize(target, allow_encoded_slash=True).origin_form.encode()
    headers = ((b"Host", host.encode()), *fields)
    return RequestHead(
        method, canonical, b"HTTP/1.1", headers, Length(len(body)) if body else NO_BODY
    )


def signed(
    plan: SigningPlan,
    head: RequestHead,
    body: bytes = b"",
    credentials: CredentialSet | None = None,
    now_ms: int = NOW_MS,
) -> RequestHead:
    host = (head.host or b"").decode()
    scope = EndpointScope(host, 443, head.target.decode().partition("?")[0])
    outcome = sign(plan, head, digest_of(body), credentials or keys(), scope, now_ms=now_ms)
    assert isinstance(outcome, RequestHead), outcome
    return outcome


def fields_of(head: RequestHead) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in head.headers]


def fault_in(head: RequestHead, body: bytes = b"") -> str | None:
    secrets = {ACCESS: SECRET}
    return find_fault(head.method.decode(), head.target.decode(), fields_of(head), body, secrets)


S3 = SigningPlan("s3", "us-west-2", Payload.HASH)
BEDROCK = SigningPlan("bedrock", "us-east-1", Payload.HASH)
S3_HOST = "bucket.s3.us-west-2.amazonaws.com"
BEDROCK_HOST = "bedrock-runtime.us-east-1.amazonaws.com"

# AWS's own examples.

SUITE = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SUITE_MS = int(datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp() * 1000)
UNRESERVED = b"/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("method", "target", "fields", "body", "names", "signature"),
    [
        pytest.param(
            b"GET", b"/", (), b"", "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            id="get-vanilla",
        ),
        pytest.param(
            b"GET", b"/?Param2=value2&Param1=value1", (), b"", "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            id="get-vanilla-query-order-key-case",
        ),
        pytest.param(
            b"GET", b"/?Param1=value2&Param1=Value1", (), b"", "host;x-amz-date",
            "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1",
            id="get-vanilla-query-order-key",
        ),
        pytest.param(
            b"GET", UNRESERVED, (), b"", "host;x-amz-date",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            id="get-unreserved",
        ),
        pytest.param(
            b"GET", b"/", ((b"My-Header1", b"value2"), (b"My-Header1", b"value2"), (b"My-Header1", b"value1")),
            b"", "host;my-header1;x-amz-date",
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            id="get-header-key-duplicate",
        ),
        pytest.param(
            b"GET", b"/", ((b"My-Header1", b"value1"), (b"My-Header2", b'"a   b   c"')),
            b"", "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            id="get-header-value-trim",
        ),
        pytest.param(
            b"POST", b"/", (), b"", "host;x-amz-date",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            id="post-vanilla",
        ),
        pytest.param(
            b"POST", b"/", ((b"Content-Type", b"application/x-www-form-urlencoded"),),
            b"Param1=value1", "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            id="post-x-www-form-urlencoded",
        ),
    ],
)  # fmt: skip
def test_examples_of_the_published_suite(method, target, fields, body, names, signature) -> None:
    plan = SigningPlan("service", "us-east-1", Payload.HASH)
    access, secret = SUITE
    head = request(method, "example.amazonaws.com", target, *fields, body=body)
    outcome = signed(plan, head, body, keys(access=access, secret=secret), SUITE_MS)
    assert outcome.headers[-1] == (
        b"Authorization",
        f"AWS4-HMAC-SHA256 Credential={access}/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}".encode(),
    )


@pytest.mark.parametrize(
    ("method", "target", "fields", "body", "signature"),
    [
        pytest.param(
            b"GET", b"/test.txt", ((b"Range", b"bytes=0-9"),), b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            id="get-object",
        ),
        pytest.param(
            b"PUT", b"/test$file.text",
            ((b"Date", b"Fri, 24 May 2013 00:00:00 GMT"), (b"x-amz-storage-class", b"REDUCED_REDUNDANCY")),
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            id="put-object",
        ),
        pytest.param(
            b"GET", b"/?lifecycle", (), b"",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            id="get-bucket-lifecycle",
        ),
        pytest.param(
            b"GET", b"/?prefix=J&max-keys=2", (), b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            id="list-objects",
        ),
    ],
)  # fmt: skip
def test_examples_of_the_s3_manual(method, target, fields, body, signature) -> None:
    plan = SigningPlan("s3", "us-east-1", Payload.HASH)
    moment = int(datetime(2013, 5, 24, tzinfo=UTC).timestamp() * 1000)
    example = keys(access="AKIAIOSFODNN7EXAMPLE", secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    head = request(method, "examplebucket.s3.amazonaws.com", target, *fields, body=body)
    outcome = signed(plan, head, body, example, moment)
    assert outcome.values(b"authorization")[0].endswith(f"Signature={signature}".encode())


# What botocore's clients send.


class Captured(Exception):
    pass


def captured(monkeypatch, service: str, call, region: str, **config) -> AWSPreparedRequest:
    """What a client would send, with keys of its own."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: MOMENT)
    client = botocore.session.Session().create_client(
        service,
        region_name=region,
        aws_access_key_id="AKIDCLIENT",
        aws_secret_access_key="client-secret",
        aws_session_token="client-token",
        **config,
    )
    caught: list[AWSPreparedRequest] = []

    def catch(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        caught.append(request)
        raise Captured

    client.meta.events.register("before-send", catch)
    with pytest.raises(Captured):
        call(client)
    return caught[0]


def sent(prepared: AWSPreparedRequest) -> tuple[RequestHead, bytes]:
    _, _, rest = prepared.url.partition("://")
    host, slash, target = rest.partition("/")
    body = prepared.body or b""
    data: bytes = body if isinstance(body, bytes) else body.read()
    fields = [
        (name.encode(), value if isinstance(value, bytes) else str(value).encode())
        for name, value in prepared.headers.items()
        if name.lower() not in ("host", "transfer-encoding")
    ]
    return request(b"PUT", host, (slash + target).encode(), *fields, body=data).with_target(
        (slash + target).encode()
    ), data


CALLS = {
    "list": (
        "s3",
        lambda c: c.list_objects_v2(Bucket="b-1", Prefix="a b/ü+&=~", Delimiter="/"),
        b"GET",
    ),
    "get": ("s3", lambda c: c.get_object(Bucket="b-1", Key="dir/a+b (1)!*'~ü:@,=$&.txt"), b"GET"),
    "put": (
        "s3",
        lambda c: c.put_object(
            Bucket="b-1", Key="x/y", Body=b"data", Metadata={"note": "two   blanks"}
        ),
        b"PUT",
    ),
    "delete": (
        "s3",
        lambda c: c.delete_object(Bucket="b-1", Key="x/y", VersionId="null"),
        b"DELETE",
    ),
    "invoke": (
        "bedrock-runtime",
        lambda c: c.invoke_model(modelId="anthropic.claude-3-5-sonnet-20241022-v2:0", body=b"{}"),
        b"POST",
    ),
    "invoke-arn": (
        "bedrock-runtime",
        lambda c: c.invoke_model(
            modelId="arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.x.y-v1:0",
            body=b'{"a": "b"}',
        ),
        b"POST",
    ),
    "models": (
        "bedrock",
        lambda c: c.list_foundation_models(byProvider="anthropic"),
        b"GET",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_requests_of_botocore_clients_are_signed_anew(name: str, monkeypatch) -> None:
    service, call, method = CALLS[name]
    prepared = captured(monkeypatch, service, call, "us-east-1")
    head, body = sent(prepared)
    head = RequestHead(method, head.target, head.version, head.headers, head.framing)
    fields = fields_of(head)
    theirs = {"AKIDCLIENT": "client-secret"}
    # The verifier accepts what the client itself signed, and nobody else's key.
    assert find_fault(method.decode(), head.target.decode(), fields, body, theirs) is None
    assert fault_in(head, body) == "unknown access key"
    canonical = canonicalize(head.target, allow_encoded_slash=True).origin_form.encode()
    asked = head.values(b"x-amz-content-sha256")
    payload = Payload.HASH
    if asked and asked[0].startswith((b"UNSIGNED", b"STREAMING")):
        payload = Payload(asked[0].decode())
    plan = SigningPlan("s3" if service == "s3" else "bedrock", "us-east-1", payload)
    outcome = signed(plan, head.with_target(canonical), body, keys(token=TOKEN))
    assert fault_in(outcome, body) is None
    # The wire form is the client's own again, whatever the policy read it as.
    assert outcome.target.partition(b"?")[0] == head.target.partition(b"?")[0]
    wire = render_request_head(outcome)
    assert b"client-token" not in wire
    assert b"AKIDCLIENT" not in wire
    assert SECRET.encode() not in wire


@pytest.mark.parametrize(
    ("plan", "base"),
    [(S3, botocore.auth.S3SigV4Auth), (BEDROCK, botocore.auth.SigV4Auth)],
    ids=["s3", "bedrock"],
)
def test_the_same_fields_give_botocores_own_signature(plan, base, monkeypatch) -> None:
    host = S3_HOST if plan is S3 else BEDROCK_HOST
    target = b"/model/a%3Ab/invoke?x=%2F&a=&a=1"
    fields = ((b"Content-Type", b"application/json"), (b"X-Custom", b"one"))
    outcome = signed(
        plan, request(b"POST", host, target, *fields, body=b"{}"), b"{}", keys(token=TOKEN)
    )
    theirs = AWSRequest(
        method="POST",
        url=f"https://{host}{outcome.target.decode()}",
        data=b"{}",
        headers={name.decode(): value.decode() for name, value in fields},
    )
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: MOMENT)
    base(Credentials(ACCESS, SECRET, TOKEN), plan.service, plan.region).add_auth(theirs)
    assert outcome.values(b"authorization") == (theirs.headers["Authorization"].encode(),)


# What stays and what goes.


def test_all_fields_are_signed_but_those_that_change_on_the_way() -> None:
    changing = (
        (b"Accept-Encoding", b"gzip"),
        (b"User-Agent", b"x"),
        (b"Amz-Sdk-Invocation-Id", b"1"),
        (b"amz-sdk-request", b"attempt=1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Connection", b"close"),
    )
    kept = (
        (b"X-Amzn-Trace-Id", b"1"),
        (b"Traceparent", b"0"),
        (b"Via", b"1.1 x"),
        (b"Cookie", b""),
    )
    head = request(b"GET", S3_HOST, b"/key", *changing, *kept, (b"Expect", b"100-continue"))
    outcome = signed(S3, head, credentials=keys(token=TOKEN))
    assert signed_fields(outcome.values(b"authorization")[0].decode()) == {
        "cookie",
        "host",
        "traceparent",
        "via",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amzn-trace-id",
    }
    assert outcome.headers[:-4] == (head.headers[0], *changing, *kept)
    assert fault_in(outcome) is None


@pytest.mark.parametrize("payload", [Payload.UNSIGNED, Payload.UNSIGNED_TRAILER])
@pytest.mark.parametrize("service", ["s3", "bedrock"])
def test_a_body_that_is_not_signed_is_named_as_such(payload, service) -> None:
    plan = SigningPlan(service, "us-west-2", payload)
    head = request(b"PUT", S3_HOST, b"/key", body=b"whatever")
    outcome = signed(plan, head, b"never looked at")
    assert outcome.values(b"x-amz-content-sha256") == (payload.value.encode(),)
    assert fault_in(outcome, b"whatever") is None


@pytest.mark.parametrize(
    ("target", "on_the_wire"),
    [
        (b"/a%2bb%20(c)!~", b"/a%2Bb%20%28c%29%21~"),
        (b"/caf%C3%A9/", b"/caf%C3%A9/"),
        (b"/a%2Fb", b"/a%2Fb"),
        (b"/?acl", b"/?acl"),
        (b"/?a=b+c&&d=e/f%7e&", b"/?a=b%20c&d=e%2Ff~"),
        (b"/?", b"/"),
        (b"/?a=1=2", b"/?a=1%3D2"),
    ],
)
def test_targets_go_out_as_they_are_signed(target: bytes, on_the_wire: bytes) -> None:
    outcome = signed(S3, request(b"GET", S3_HOST, target))
    assert outcome.target == on_the_wire
    assert fault_in(outcome) is None


_NAMES = st.sampled_from(
    [
        b"authorization",
        b"x-amz-date",
        b"x-amz-security-token",
        b"x-amz-content-sha256",
        b"expect",
        b"x-amz-meta-a",
        b"Accept",
        b"user-agent",
    ]
)
_CASED = st.tuples(_NAMES, st.integers(0, 255)).map(
    lambda given: bytes(
        byte - 32 if given[1] >> (at % 8) & 1 and 97 <= byte <= 122 else byte
        for at, byte in enumerate(given[0])
    )
)
_VALUES = st.sampled_from(
    [STOLEN, b"client", b"", b"a  b", PLACEHOLDER, b"Credential=" + PLACEHOLDER]
)
_FIELDS = st.lists(st.tuples(_CASED, _VALUES), max_size=12).map(tuple)


# The machine may be busy: time is no part of what is shown.
@settings(deadline=None)
@given(_FIELDS, st.sampled_from(list(Payload)), st.booleans())
def test_nothing_of_the_clients_signature_leaves(fields: Headers, payload, temporary) -> None:
    plan = SigningPlan("s3", "us-west-2", payload)
    head = request(b"GET", S3_HOST, b"/key", *fields)
    credentials = keys(token=TOKEN if temporary else "")
    outcome = sign(
        plan, head, EMPTY_DIGEST, credentials, EndpointScope(S3_HOST, 443, "/key"), now_ms=NOW_MS
    )
    own = {
        b"authorization",
        b"x-amz-date",
        b"x-amz-security-token",
        b"x-amz-content-sha256",
        b"expect",
    }
    others = [pair for pair in head.headers if pair[0].lower() not in own]
    if any(find_marker(value) for _, value in others):
        assert outcome == CredentialRefused("credential_unavailable", "signed-request")
        return
    assert isinstance(outcome, RequestHead)
    assert list(outcome.headers[: len(others)]) == others
    assert len(outcome.headers) == len(others) + 3 + temporary
    assert outcome.values(b"x-amz-security-token") == ((TOKEN.encode(),) if temporary else ())
    assert fault_in(outcome) is None
    assert b"AKIDCLIENT" not in b"".join(value for _, value in outcome.headers[len(others) :])
    assert not find_marker(render_request_head(outcome))


_TEXT = st.text(st.characters(min_codepoint=0x20, exclude_characters="/;.\x7f", codec="utf-8"))


# The machine may be busy: time is no part of what is shown.
@settings(deadline=None)
@given(
    st.lists(_TEXT.filter(bool), max_size=4),
    st.lists(st.tuples(_TEXT.filter(bool), _TEXT), max_size=5),
    st.sampled_from([S3, BEDROCK]),
)
def test_any_path_and_query_verify(segments, pairs, plan) -> None:
    target = "/" + "/".join(quote(s, safe="!$&'()*+,=:@") for s in segments)
    if pairs:
        target += "?" + urlencode(pairs)
    head = request(b"GET", S3_HOST, target.encode())
    outcome = sign(
        plan, head, EMPTY_DIGEST, keys(), EndpointScope(S3_HOST, 443, "/"), now_ms=NOW_MS
    )
    assert isinstance(outcome, RequestHead)
    assert fault_in(outcome) is None


# Keys.


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        pytest.param(CredentialSet(), SigningFault.KEYS, id="none"),
        pytest.param(held(AWS_ACCESS_KEY_ID=ACCESS), SigningFault.KEYS, id="no-secret"),
        pytest.param(held(AWS_SECRET_ACCESS_KEY=SECRET), SigningFault.KEYS, id="no-access-key"),
        pytest.param(keys().revoked(), SigningFault.KEYS, id="revoked"),
        pytest.param(keys(access="AKID/20200101"), SigningFault.KEYS, id="slash"),
        pytest.param(keys(access="AKID, X=Y"), SigningFault.KEYS, id="comma"),
        pytest.param(keys(access=PLACEHOLDER.decode()), SigningFault.KEYS, id="placeholder"),
        pytest.param(keys(token="two words"), SigningFault.KEYS, id="token-with-blank"),
        pytest.param(keys(token=PLACEHOLDER.decode()), SigningFault.KEYS, id="token-placeholder"),
        pytest.param(
            keys("bucket.elsewhere.example"),
            CredentialRefused("credential_endpoint_mismatch", "signature"),
            id="bound-elsewhere",
        ),
        pytest.param(
            CredentialSet.build(2, {}, {}, previous=keys()),
            CredentialRefused("credential_endpoint_mismatch", "signature"),
            id="withdrawn",
        ),
    ],
)
def test_without_usable_keys_nothing_is_signed(credentials, expected) -> None:
    head, scope = request(b"GET", S3_HOST, b"/key"), EndpointScope(S3_HOST, 443, "/key")
    assert isinstance(sign(S3, head, EMPTY_DIGEST, keys(), scope, now_ms=0), RequestHead)
    assert sign(S3, head, EMPTY_DIGEST, credentials, scope, now_ms=0) == expected


def test_an_expired_token_is_not_left_out() -> None:
    binding = Binding((BoundEndpoint(S3_HOST, 443),), "provider/aws", "a" * 64)
    values = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "AWS_SESSION_TOKEN": "T"}
    credentials = CredentialSet.build(
        3, values, dict.fromkeys(values, binding), expires_at_ms={"AWS_SESSION_TOKEN": 1000}
    )
    scope = EndpointScope(S3_HOST, 443, "/")
    found = find_signing_keys(credentials, scope, now_ms=999)
    assert getattr(found, "token", None) == "T"
    assert find_signing_keys(credentials, scope, now_ms=1000) is SigningFault.KEYS


def test_a_rotated_key_signs_with_its_present_value() -> None:
    before = keys()
    binding = Binding((BoundEndpoint("**.amazonaws.com", 443),), "provider/aws")
    values = {"AWS_ACCESS_KEY_ID": "AKIDNEXT", "AWS_SECRET_ACCESS_KEY": "next"}
    after = CredentialSet.build(2, values, dict.fromkeys(values, binding), previous=before)
    outcome = signed(S3, request(b"GET", S3_HOST, b"/key"), credentials=after)
    assert b"Credential=AKIDNEXT/" in outcome.values(b"authorization")[0]


def test_a_placeholder_that_belongs_elsewhere_is_a_mismatch() -> None:
    away = Binding((BoundEndpoint("elsewhere.example", 443),), "provider/other")
    here = Binding((BoundEndpoint("**.amazonaws.com", 443),), "provider/aws")
    values = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "OTHER": "x"}
    bindings = {key: away if key == "OTHER" else here for key in values}
    credentials = CredentialSet.build(1, values, bindings)
    scope = EndpointScope(S3_HOST, 443, "/key")
    for key, code in (("OTHER", "endpoint_mismatch"), ("AWS_SECRET_ACCESS_KEY", "unavailable")):
        mark = f"openshell:resolve:env:v1_{key}".encode()
        for head in (
            request(b"PUT", S3_HOST, b"/key", (b"x-amz-meta-a", mark)),
            request(b"PUT", S3_HOST, b"/key?a=" + mark),
        ):
            outcome = sign(S3, head, EMPTY_DIGEST, credentials, scope, now_ms=0)
            assert outcome == CredentialRefused(f"credential_{code}", "signed-request")


@pytest.mark.parametrize("method", [b"TRACE", b"trace", b"TRACK"])
def test_a_method_whose_answer_repeats_the_request_is_not_signed(method: bytes) -> None:
    scope = EndpointScope(S3_HOST, 443, "/")
    head = request(method, S3_HOST, b"/")
    assert sign(S3, head, EMPTY_DIGEST, keys(), scope, now_ms=0) is SigningFault.METHOD


def test_without_the_library_nothing_is_signed(monkeypatch) -> None:
    head, scope = request(b"GET", S3_HOST, b"/key"), EndpointScope(S3_HOST, 443, "/key")
    load_signer.cache_clear()
    try:
        monkeypatch.setitem(sys.modules, "botocore.auth", None)
        assert sign(S3, head, EMPTY_DIGEST, keys(), scope, now_ms=0) is SigningFault.LIBRARY
        assert "openshell-py[aws]" in SigningFault.LIBRARY.value
    finally:
        load_signer.cache_clear()


def test_keys_are_in_no_representation() -> None:
    credentials = keys(token=TOKEN)
    scope = EndpointScope(S3_HOST, 443, "/key")
    found = find_signing_keys(credentials, scope, now_ms=0)
    outcome = signed(S3, request(b"GET", S3_HOST, b"/key"), credentials=credentials)
    for shown in (repr(found), repr(credentials), repr(outcome), repr(S3)):
        for secret in (ACCESS, SECRET, TOKEN):
            assert secret not in shown


def test_the_library_logs_nothing_of_the_request(caplog) -> None:
    caplog.set_level("DEBUG")
    signed(S3, request(b"GET", S3_HOST, b"/key"), credentials=keys(token=TOKEN))
    assert not caplog.records
