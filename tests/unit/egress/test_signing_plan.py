"""Which requests can be signed, for what, and which endpoint says so."""

from __future__ import annotations

import json

import pytest

from openshell.egress.http1 import CHUNKED, NO_BODY, Framing, Headers, Length, RequestHead
from openshell.egress.signing_plan import (
    SIGNED_BODY_LIMIT,
    Payload,
    SigningFault,
    SigningPlan,
    plan_signing,
    signing_endpoint,
)
from openshell.policy.compile import compile_policy
from openshell.policy.decide import ConnectionAllowed, ConnectionRequest, EndpointConfig
from openshell.policy.model import Endpoint
from openshell.policy.parse import parse_policy
from openshell.policy.target import canonicalize

CURL = "/usr/bin/curl"
S3_HOST = "bucket.s3.us-west-2.amazonaws.com"
BEDROCK_HOST = "bedrock-runtime.eu-central-1.amazonaws.com"


def endpoint(**fields: object) -> Endpoint:
    given = {
        "host": "*.amazonaws.com",
        "ports": (443,),
        "protocol": "rest",
        "credential_signing": "sigv4",
        "signing_service": "s3",
    }
    return Endpoint(**(given | fields))


def head(
    target: bytes = b"/key", *fields: tuple[bytes, bytes], framing: Framing = NO_BODY
) -> RequestHead:
    headers: Headers = ((b"Host", S3_HOST.encode()), *fields)
    return RequestHead(b"PUT", target, b"HTTP/1.1", headers, framing)


def plan(
    request: RequestHead, *, host: str = S3_HOST, **fields: object
) -> SigningPlan | SigningFault:
    target = canonicalize(request.target, allow_encoded_slash=True).origin_form.encode()
    return plan_signing(endpoint(**fields), host, request, target)


def says(value: str) -> tuple[bytes, bytes]:
    return (b"X-Amz-Content-Sha256", value.encode())


UNSIGNED = says("UNSIGNED-PAYLOAD")
TRAILER = says("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
CHUNKS = says("STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
DIGEST = says("0" * 64)
SMALL = Length(SIGNED_BODY_LIMIT)
LARGE = Length(SIGNED_BODY_LIMIT + 1)


@pytest.mark.parametrize(
    ("mode", "fields", "framing", "expected"),
    [
        pytest.param("sigv4", (), NO_BODY, Payload.HASH, id="nothing-sent"),
        pytest.param("sigv4", (), SMALL, Payload.HASH, id="a-length"),
        pytest.param("sigv4", (), LARGE, SigningFault.BODY_SIZE, id="too-long"),
        pytest.param("sigv4", (), CHUNKED, Payload.UNSIGNED, id="chunks-and-no-word"),
        pytest.param("sigv4", (DIGEST,), SMALL, Payload.HASH, id="a-digest"),
        pytest.param("sigv4", (DIGEST,), LARGE, SigningFault.BODY_SIZE, id="a-digest-too-long"),
        pytest.param("sigv4", (DIGEST,), CHUNKED, SigningFault.BODY_LENGTH, id="a-digest-chunked"),
        pytest.param("sigv4", (says("?"),), SMALL, Payload.HASH, id="any-other-word"),
        pytest.param("sigv4", (UNSIGNED, DIGEST), SMALL, Payload.HASH, id="two-words"),
        pytest.param("sigv4", (UNSIGNED,), LARGE, Payload.UNSIGNED, id="unsigned"),
        pytest.param("sigv4", (UNSIGNED,), CHUNKED, Payload.UNSIGNED, id="unsigned-chunked"),
        pytest.param("sigv4", (TRAILER,), CHUNKED, Payload.UNSIGNED_TRAILER, id="trailer"),
        pytest.param("sigv4", (TRAILER,), LARGE, Payload.UNSIGNED_TRAILER, id="trailer-length"),
        pytest.param("sigv4", (CHUNKS,), SMALL, SigningFault.SIGNED_CHUNKS, id="signed-chunks"),
        pytest.param(
            "sigv4",
            (says("streaming-aws4-hmac-sha256-payload-trailer"),),
            SMALL,
            SigningFault.SIGNED_CHUNKS,
            id="signed-chunks-in-small-letters",
        ),
        pytest.param("sigv4", (TRAILER, CHUNKS), SMALL, SigningFault.SIGNED_CHUNKS, id="both"),
        pytest.param("sigv4:body", (), NO_BODY, Payload.HASH, id="body-nothing-sent"),
        pytest.param("sigv4:body", (UNSIGNED,), SMALL, Payload.HASH, id="body-whatever-is-said"),
        pytest.param("sigv4:body", (), LARGE, SigningFault.BODY_SIZE, id="body-too-long"),
        pytest.param("sigv4:body", (), CHUNKED, SigningFault.BODY_LENGTH, id="body-chunked"),
        pytest.param(
            "sigv4:body", (TRAILER,), SMALL, SigningFault.SIGNED_CHUNKS, id="body-trailer"
        ),
        pytest.param("sigv4:no_body", (), NO_BODY, Payload.UNSIGNED, id="no-body-nothing-sent"),
        pytest.param("sigv4:no_body", (DIGEST,), LARGE, Payload.UNSIGNED, id="no-body-digest"),
        pytest.param("sigv4:no_body", (), CHUNKED, Payload.UNSIGNED, id="no-body-chunked"),
        pytest.param(
            "sigv4:no_body", (TRAILER,), CHUNKED, Payload.UNSIGNED_TRAILER, id="no-body-trailer"
        ),
        pytest.param("sigv4:no_body", (CHUNKS,), SMALL, SigningFault.SIGNED_CHUNKS, id="no-chunks"),
    ],
)
def test_what_stands_for_the_body(mode, fields, framing, expected) -> None:
    outcome = plan(head(b"/key", *fields, framing=framing), credential_signing=mode)
    assert (outcome.payload if isinstance(outcome, SigningPlan) else outcome) is expected


@pytest.mark.parametrize(
    ("host", "named", "region"),
    [
        ("bucket.s3.us-west-2.amazonaws.com", "", "us-west-2"),
        ("s3.us-gov-west-1.amazonaws.com", "", "us-gov-west-1"),
        ("S3.EU-North-1.Amazonaws.com.", "", "eu-north-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "", "cn-north-1"),
        ("bucket.s3.dualstack.ap-southeast-2.amazonaws.com", "", "ap-southeast-2"),
        ("bucket.ap-southeast-2.dualstack.amazonaws.com", "", "ap-southeast-2"),
        ("bedrock-runtime.eu-central-1.amazonaws.com", "", "eu-central-1"),
        ("bucket.s3.us-west-2.amazonaws.com", "eu-west-1", "eu-west-1"),
        ("bucket.s3.amazonaws.com", "us-east-1", "us-east-1"),
        ("minio.internal", "anywhere", "anywhere"),
    ],
)
def test_regions(host: str, named: str, region: str) -> None:
    outcome = plan(head(), host=host, signing_region=named)
    assert outcome == SigningPlan("s3", region, Payload.HASH)


@pytest.mark.parametrize(
    "host",
    [
        "bucket.s3.amazonaws.com",
        "amazonaws.com",
        "dualstack.amazonaws.com",
        # Signed for a region of that name, S3 would refuse it.
        "s3-us-west-2.amazonaws.com",
        "s3.us-west-2.amazonaws.com.evil.example",
        "us-west-2.example",
        "s3.us-west-2.xamazonaws.com",
    ],
)
def test_hosts_without_a_region(host: str) -> None:
    assert plan(head(), host=host) is SigningFault.REGION


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"credential_signing": "sigv5"}, SigningFault.MODE),
        ({"signing_service": ""}, SigningFault.SERVICE),
        ({"signing_service": "s3/aws4_request"}, SigningFault.SERVICE),
        ({"signing_service": "s3express"}, SigningFault.SERVICE_UNKNOWN),
        ({"signing_region": "us/east"}, SigningFault.REGION),
        ({"request_body_credential_rewrite": True}, SigningFault.BODY_REWRITE),
    ],
)
def test_settings_that_cannot_be_signed_with(fields, fault) -> None:
    assert isinstance(plan(head()), SigningPlan)
    assert plan(head(), **fields) is fault


@pytest.mark.parametrize(
    "query",
    [
        b"X-Amz-Signature=0",
        b"a=b&x-amz-credential=c",
        b"X%2DAmz%2DAlgorithm=AWS4-HMAC-SHA256",
        b"X-Amz-Security-Token=t",
        b"AWSAccessKeyId=a&Signature=s&Expires=1",
    ],
)
def test_presigned_urls_are_refused(query: bytes) -> None:
    assert isinstance(plan(head(b"/key?prefix=X-Amz-Signature")), SigningPlan)
    assert plan(head(b"/key?" + query)) is SigningFault.OWN_SIGNATURE


@pytest.mark.parametrize(
    ("target", "object_store", "other_service"),
    [
        (b"/a%2Bb%28c%29", True, True),
        (b"/a+b(c)", True, True),
        (b"/model/a%3Ab%2Fc/invoke", True, True),
        (b"https://bucket.s3.us-west-2.amazonaws.com/a?b=/../", True, True),
        (b"https://bucket.s3.us-west-2.amazonaws.com", True, True),
        (b"https://bucket.s3.us-west-2.amazonaws.com?a=b/c", True, True),
        (b"/a//b", False, True),
        (b"/a/./b", False, True),
        (b"/a/../b", False, True),
        (b"/a/%2E%2E/b", False, True),
        # What stands behind a semicolon would be lost: this would delete the object `a`.
        (b"/a%3Bb", False, False),
        (b"/a;b", False, False),
    ],
)
def test_paths_that_would_name_something_else(target, object_store, other_service) -> None:
    stored = plan(head(target))
    other = plan(head(target), signing_service="bedrock")
    assert (stored is not SigningFault.PATH) is object_store
    assert (other is not SigningFault.PATH) is other_service
    assert isinstance(stored, SigningPlan) is object_store
    assert isinstance(other, SigningPlan) is other_service


def test_every_fault_that_the_plan_finds_has_a_sentence_that_quotes_nothing() -> None:
    for fault in SigningFault:
        assert fault.value
        assert "%" not in fault.value


# Which endpoint signs.


def connected(host: str, *endpoints: dict[str, object]) -> ConnectionAllowed:
    shared = {"port": 443, "protocol": "rest", "access": "full"}
    rule = {
        "name": "r",
        "endpoints": [shared | one for one in endpoints],
        "binaries": [{"path": CURL}],
    }
    policy = parse_policy(json.dumps({"version": 1, "network_policies": {"r": rule}}), source="t")
    compiled = compile_policy(policy, generation=1)
    decision = compiled.connect(ConnectionRequest(host, 443, CURL))
    assert isinstance(decision, ConnectionAllowed)
    return decision


def governing(decision: ConnectionAllowed, path: str) -> EndpointConfig:
    matching = [c for c in decision.l7_configs if c.matches_route(path)]
    return max(matching, key=lambda c: c.specificity)


def signs(**fields: object) -> dict[str, object]:
    return {"credential_signing": "sigv4", "signing_service": "s3"} | fields


@pytest.mark.parametrize("turned", [False, True])
def test_where_two_patterns_meet_the_one_with_a_region_signs(turned: bool) -> None:
    meeting = [
        signs(host="s3.*.amazonaws.com"),
        signs(host="*.s3.amazonaws.com", signing_region="us-east-1"),
    ]
    decision = connected("s3.s3.amazonaws.com", *(meeting[::-1] if turned else meeting))
    chosen = signing_endpoint(decision, governing(decision, "/key"), "/key")
    assert chosen is not None
    assert chosen.signing_region == "us-east-1"


@pytest.mark.parametrize("turned", [False, True])
def test_a_more_specific_host_comes_before_a_region(turned: bool) -> None:
    nested = [
        signs(host="*.amazonaws.com", signing_region="eu-west-1"),
        signs(host="s3.amazonaws.com", signing_service="s3-outposts"),
    ]
    decision = connected("s3.amazonaws.com", *(nested[::-1] if turned else nested))
    chosen = signing_endpoint(decision, governing(decision, "/key"), "/key")
    assert chosen is not None
    assert chosen.signing_service == "s3-outposts"


def test_a_path_of_its_own_decides_whether_it_is_signed() -> None:
    decision = connected(
        "s3.amazonaws.com",
        signs(host="s3.amazonaws.com", path="/bucket/**"),
        {"host": "s3.amazonaws.com", "path": "/bucket/public/**"},
        {"host": "s3.amazonaws.com", "path": "/open/**"},
    )
    for path, expected in (("/bucket/key", True), ("/bucket/public/key", False), ("/open/", False)):
        config = governing(decision, path)
        assert (signing_endpoint(decision, config, path) is not None) is expected, path


def test_an_endpoint_without_inspection_signs_as_well() -> None:
    decision = connected("s3.amazonaws.com", signs(host="s3.amazonaws.com", protocol="", access=""))
    assert not decision.l7_configs
    assert signing_endpoint(decision, None, "/key") is not None
    # Beside one that inspects and asks for no signature as well: never unsigned.
    mixed = connected(
        "s3.amazonaws.com",
        signs(host="s3.amazonaws.com", protocol="", access=""),
        {"host": "s3.amazonaws.com"},
    )
    assert signing_endpoint(mixed, governing(mixed, "/key"), "/key") is not None
    plain = connected(
        "s3.amazonaws.com", {"host": "s3.amazonaws.com", "protocol": "", "access": ""}
    )
    assert signing_endpoint(plain, None, "/key") is None
