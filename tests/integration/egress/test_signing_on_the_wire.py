"""Requests that an SDK signs with placeholders reach a server signed with the account's keys."""

import asyncio
import contextlib
import json
import sys
from contextlib import asynccontextmanager
from functools import partial

import botocore.session
import moto.settings
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from integration.egress.harness import (
    OK,
    A,
    B,
    Proxy,
    Upstream,
    parse,
    plain,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.credentials import BODY_LIMIT, Binding, BoundEndpoint, CredentialSet
from openshell.egress.holding import LARGE_BODIES
from openshell.egress.signer import load_signer
from openshell.egress.signing_plan import SIGNED_BODY_LIMIT
from openshell.ocsf import to_json
from support.aws_account import aws_account
from support.aws_signatures import find_fault

ACCESS, SECRET, TOKEN = (
    "AKIDOURS0000000000",
    "our/secret+KEY/that-never-leaves",
    "our/session+token==",
)
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
SIGNS = {"credential_signing": "sigv4", "signing_service": "s3", "signing_region": "eu-west-1"}
FAULTY = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
STOLEN = (
    "AWS4-HMAC-SHA256 Credential=openshell:resolve:env:v1_AWS_ACCESS_KEY_ID/20260101/eu-west-1/s3/"
    "aws4_request, SignedHeaders=host, Signature=00"
)


def bindings(host, port, keys=KEYS):
    return dict.fromkeys(keys, Binding((BoundEndpoint(host, port),), "provider/aws"))


def placeholders(keys=KEYS):
    """What an SDK finds in its environment."""
    return {
        "aws_" + key.removeprefix("AWS_").lower(): f"openshell:resolve:env:v1_{key}" for key in keys
    }


def fault_in(request):
    """What a server that knows the secret finds wrong."""
    method, target, _ = request.line.decode().split(" ")
    fields = [line.decode().split(": ", 1) for line in request.head.split(b"\r\n")[1:]]
    return find_fault(method, target, fields, request.body, {ACCESS: SECRET})


def verifying(request):
    """An answer that depends on the signature."""
    return OK if fault_in(request) is None else FAULTY


@asynccontextmanager
async def signing(up, *, keys=KEYS, host=A, **fields):
    endpoint = rest(A, up.port, **(SIGNS | fields))
    proxy = Proxy(rest_policy(endpoint), environment=keys, bindings=bindings(host, up.port, keys))
    async with proxy:
        yield proxy
    everything = b"".join(to_json(event) for event in proxy.events)
    for secret in (SECRET, TOKEN, ACCESS):
        assert secret.encode() not in everything
    # The secret is no part of what goes out, signature or not.
    assert not any(SECRET.encode() in r.head + r.body for r in up.requests)


def head(method="GET", target="/key", *fields, port, length=None):
    lines = [f"{method} {target} HTTP/1.1", f"Host: {A}:{port}", f"Authorization: {STOLEN}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


def sdk(proxy, service, url, tmp_path, keys=KEYS, **config):
    pem = tmp_path / "ca.pem"
    pem.write_bytes(proxy.ca.certificate_pem)
    through = f"http://127.0.0.1:{proxy.port}"
    return botocore.session.Session().create_client(
        service,
        region_name="eu-west-1",
        endpoint_url=url,
        verify=str(pem),
        config=Config(
            proxies={"http": through, "https": through},
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            **config,
        ),
        **placeholders(keys),
    )


# SDKs against servers that check.


@pytest.fixture(scope="module")
def account():
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    with aws_account() as aws:
        aws.check_who_signs(after="inf")
        aws.client("iam", "setup", "setup").put_user_policy(
            UserName="gateway", PolicyName="store", PolicyDocument=policy
        )
        aws.check_who_signs()
        yield aws


def test_moto_refuses_what_is_not_signed_by_the_user(account):
    s3 = account.client("s3", account.key_id, "wrong")
    with pytest.raises(s3.exceptions.ClientError, match="SignatureDoesNotMatch"):
        s3.list_buckets()


async def test_objects_are_stored_and_read_with_placeholders_as_keys(
    account, tmp_path, monkeypatch
):
    # The alias is no name of a bucket.
    monkeypatch.setattr(moto.settings, "S3_IGNORE_SUBDOMAIN_BUCKETNAME", True)
    port = int(account.url.rpartition(":")[2])
    keys = {"AWS_ACCESS_KEY_ID": account.key_id, "AWS_SECRET_ACCESS_KEY": account.secret}
    policy = rest_policy(rest(A, port, **SIGNS | {"signing_region": "us-east-1"}))
    proxy = Proxy(policy, environment=keys, bindings=bindings(A, port, keys))
    async with proxy:
        s3 = sdk(proxy, "s3", f"http://{A}:{port}", tmp_path, keys)

        def work():
            s3.create_bucket(
                Bucket="bucket-1", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
            )
            names = ["plain", "dir/a b+c (1)!*'~ü:@,=$&.txt", "100%25"]
            for name in names:
                s3.put_object(Bucket="bucket-1", Key=name, Body=name.encode(), Metadata={"a": "b"})
            listed = s3.list_objects_v2(Bucket="bucket-1", MaxKeys=10, EncodingType="url")
            bodies = [s3.get_object(Bucket="bucket-1", Key=name)["Body"].read() for name in names]
            s3.delete_object(Bucket="bucket-1", Key="plain")
            return len(listed["Contents"]), bodies == [name.encode() for name in names]

        assert await asyncio.to_thread(work) == (3, True)
    assert not proxy.denials
    everything = b"".join(to_json(event) for event in proxy.events)
    assert account.secret.encode() not in everything
    assert account.key_id.encode() not in everything


CALLS = {
    "put": ("s3", lambda c: c.put_object(Bucket="b-1", Key="a/ü+1", Body=b"x" * 70_000)),
    "list": ("s3", lambda c: c.list_objects_v2(Bucket="b-1", Prefix="a b/+&=", Delimiter="/")),
    "bedrock": (
        "bedrock-runtime",
        lambda c: c.invoke_model(modelId="anthropic.claude-3-haiku-20240307-v1:0", body=b"{}"),
    ),
    "bedrock-arn": (
        "bedrock-runtime",
        lambda c: c.invoke_model(
            modelId="arn:aws:bedrock:us-east-1:123456789012:inference-profile/x", body=b"{}"
        ),
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("trailer", [True, False], ids=["checksums", "plain"])
async def test_sdks_over_tls_are_signed_anew(name, trailer, tmp_path):
    service, call = CALLS[name]
    async with Upstream(verifying, tls_name=A) as up:
        signed_for = "s3" if service == "s3" else "bedrock"
        async with signing(up, signing_service=signed_for, allow_encoded_slash=True) as proxy:
            checksums = "when_supported" if trailer else "when_required"
            client = sdk(
                proxy, service, f"https://{A}:{up.port}", tmp_path,
                request_checksum_calculation=checksums,
            )  # fmt: skip

            # The answer is none of the service's; what counts is what the server thinks of the request.
            with contextlib.suppress(ClientError, BotoCoreError):
                await asyncio.to_thread(call, client)
    assert [fault_in(request) for request in up.requests] == [None]
    request = up.requests[0]
    assert f"Credential={ACCESS}/".encode() in request.header(b"authorization")
    assert request.header(b"x-amz-security-token") == TOKEN.encode()
    assert b"openshell:resolve" not in request.head
    if name == "put":
        kept = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        assert (request.header(b"x-amz-content-sha256") == kept) is trailer


# Requests byte by byte.


async def test_every_request_of_a_connection_is_signed():
    async with Upstream(verifying, tls_name=A) as up, signing(up) as proxy:
        client = await proxy.tls(A, up.port)
        for target in ("/key", "/a+b?list-type=2&prefix=x+y"):
            assert await client.request(head("GET", target, port=up.port)) == (200, b"ok")
        assert await client.request(head("PUT", "/key", port=up.port, length=4) + b"body") == (
            200,
            b"ok",
        )
    assert [r.line.split(b" ")[1] for r in up.requests] == [
        b"/key",
        b"/a%2Bb?list-type=2&prefix=x%20y",
        b"/key",
    ]
    assert up.requests[2].body == b"body"
    assert all(r.header(b"authorization") != STOLEN.encode() for r in up.requests)
    assert not proxy.denials


@pytest.mark.parametrize("mode", ["sigv4:body", "sigv4:no_body"], ids=["held", "streamed"])
async def test_a_client_that_waits_is_asked_for_its_body_here(mode):
    async with Upstream(verifying, tls_name=A) as up, signing(up, credential_signing=mode) as proxy:
        client = await proxy.tls(A, up.port)
        await client.send(head("PUT", "/k", ("Expect", "100-continue"), port=up.port, length=5))
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await client.request(b"hello") == (200, b"ok")
    (request,) = up.requests
    assert request.header(b"expect") is None
    assert request.body == b"hello"
    unsigned = request.header(b"x-amz-content-sha256") == b"UNSIGNED-PAYLOAD"
    assert unsigned is (mode == "sigv4:no_body")


async def test_an_unsigned_body_passes_as_it_comes():
    seen = asyncio.Queue()

    async def script(reader, writer):
        seen.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        seen.put_nowait(await reader.readuntil(b"first\r\n"))
        seen.put_nowait(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(OK)
        await writer.drain()

    chunked = (("Transfer-Encoding", "chunked"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"))
    async with Upstream(script=script, tls_name=A) as up, signing(up) as proxy:
        client = await proxy.tls(A, up.port)
        await client.send(head("PUT", "/k", *chunked, port=up.port))
        async with asyncio.timeout(5):
            got = await seen.get()
            await client.send(b"5\r\nfirst\r\n")
            # The upstream has it before the client goes on.
            assert await seen.get() == b"5\r\nfirst\r\n"
        assert await client.request(b"6\r\nsecond\r\n0\r\n\r\n") == (200, b"ok")
    assert STOLEN.encode() not in got
    assert b"UNSIGNED-PAYLOAD" in got


async def test_a_body_of_several_megabytes_is_held_for_its_digest():
    body = bytes(range(256)) * (SIGNED_BODY_LIMIT // 256)
    async with Upstream(verifying) as up, signing(up) as proxy:
        client = await proxy.tunnel(A, up.port)
        await client.send(head("PUT", "/k", port=up.port, length=len(body)))
        assert await client.request(body) == (200, b"ok")
    assert up.requests[0].body == body


def put(*fields, target="/k", body=b"", method="PUT", length=True):
    def make(port):
        size = len(body) if length is True else length or None
        return head(method, target, *fields, port=port, length=size) + body

    return make


MARK = "openshell:resolve:env:v1_AWS_SECRET_ACCESS_KEY"
CHUNKED = ("Transfer-Encoding", "chunked")
REFUSED = {
    "chunked": (put(CHUNKED, ("x-amz-content-sha256", "0" * 64), length=False), {}, 411, "body_length"),
    "chunked-body-mode": (
        put(CHUNKED, length=False), {"credential_signing": "sigv4:body"}, 411, "body_length",
    ),
    "too-long": (put(length=SIGNED_BODY_LIMIT + 1), {}, 413, "body_size"),
    "signed-chunks": (
        put(("X-Amz-Content-SHA256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), body=b"x"),
        {}, 400, "signed_chunks",
    ),
    "presigned": (put(target="/k?X-Amz-Signature=0"), {}, 400, "own_signature"),
    "another-object": (put(target="/a//b", method="DELETE"), {}, 400, "path"),
    "parameters": (put(target="/a%3Bb", method="DELETE"), {}, 400, "path"),
    "echo": (put(method="TRACE", length=False), {}, 400, "method"),
    "no-region": (put(), {"signing_region": ""}, 500, "region"),
    "express": (put(), {"signing_service": "s3express"}, 500, "service_unknown"),
    "body-rewrite": (
        put(body=b"{}"), {"request_body_credential_rewrite": True}, 500, "body_rewrite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_signed_goes_nowhere(name):
    make, fields, status, reason = REFUSED[name]
    async with Upstream(verifying) as up:
        async with signing(up) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert await client.request(put()(up.port)) == (200, b"ok")
        async with signing(up, **fields) as proxy:
            client = await proxy.tunnel(A, up.port)
            answer = await client.say(make(up.port))
    assert parse(answer)[0] == status
    if name != "echo":
        _, body = problem(answer)
        assert body["error"] == "credential_signing_failed"
        assert body["reason_code"] == f"signing_{reason}"
    assert len(up.requests) == 1
    assert f"signing_{reason}" in proxy.denials[-1].refusal.code
    assert proxy.denials[-1].severity.name == "HIGH"


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        pytest.param(put(("x-amz-meta-a", MARK)), 500, "credential_unavailable", id="field"),
        pytest.param(put(target=f"/k?a={MARK}"), 500, "credential_unavailable", id="query"),
        pytest.param(put(body=MARK.encode()), 500, "credential_unavailable", id="body"),
        pytest.param(
            put(("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), body=MARK.encode()),
            500, "credential_unavailable", id="unsigned-body",
        ),
    ],
)  # fmt: skip
async def test_a_placeholder_anywhere_else_is_never_replaced(make, status, code):
    # Else an agent would store its secret as an object, and read it.
    async with Upstream(verifying) as up, signing(up) as proxy:
        client = await proxy.tunnel(A, up.port)
        answer = await client.say(make(up.port))
    assert problem(answer)[0] == status
    assert problem(answer)[1]["error"] == code
    assert not up.requests


async def test_keys_of_another_endpoint_are_a_mismatch():
    async with Upstream(verifying) as up:
        async with signing(up) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert await client.request(put()(up.port)) == (200, b"ok")
        async with signing(up, host=B) as proxy:
            client = await proxy.tunnel(A, up.port)
            answer = await client.say(put()(up.port))
    assert problem(answer)[0] == 403
    assert problem(answer)[1]["error"] == "credential_endpoint_mismatch"
    assert len(up.requests) == 1
    assert any("endpoint_mismatch" in line for line in proxy.lines)


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
async def test_without_keys_nothing_goes_out(missing):
    keys = {key: value for key, value in KEYS.items() if key != missing}
    async with Upstream(verifying) as up, signing(up, keys=keys) as proxy:
        client = await proxy.tunnel(A, up.port)
        answer = await client.say(put()(up.port))
    assert problem(answer)[0] == 500
    assert problem(answer)[1]["error"] == "credential_unavailable"
    assert not up.requests


async def test_without_the_library_the_extra_is_named(monkeypatch):
    load_signer.cache_clear()
    try:
        monkeypatch.setitem(sys.modules, "botocore.auth", None)
        async with Upstream(verifying) as up, signing(up) as proxy:
            client = await proxy.tunnel(A, up.port)
            answer = await client.say(put()(up.port))
    finally:
        load_signer.cache_clear()
    assert problem(answer)[0] == 500
    assert "openshell-py[aws]" in problem(answer)[1]["detail"]
    assert not up.requests


async def test_no_signature_goes_in_clear_text_where_tls_belongs():
    async with Upstream(verifying) as up:
        async with signing(up) as proxy:
            client = await proxy.tunnel(A, up.port)
            assert await client.request(put()(up.port)) == (200, b"ok")
        async with signing(up, tls="terminate") as proxy:
            client = await proxy.tunnel(A, up.port)
            answer = await client.say(put()(up.port))
    assert problem(answer)[0] == 403
    assert problem(answer)[1]["error"] == "credential_needs_tls"
    assert len(up.requests) == 1


async def test_an_endpoint_that_records_only_signs_as_well():
    audits = {"enforcement": "audit", "access": "read-only"}
    async with Upstream(verifying) as up, signing(up, **audits) as proxy:
        client = await proxy.tunnel(A, up.port)
        assert await client.request(put()(up.port)) == (200, b"ok")
    assert len(up.requests) == 1


async def test_a_raw_tunnel_past_the_signature_is_refused():
    async with Upstream(verifying) as up:
        for endpoint in (
            plain(A, up.port, **SIGNS, allow_uninspected_credentials=True),
            rest(A, up.port, **SIGNS, tls="skip", allow_uninspected_credentials=True),
        ):
            proxy = Proxy(rest_policy(endpoint), environment=KEYS, bindings=bindings(A, up.port))
            async with proxy:
                answer = await proxy.say(
                    f"CONNECT {A}:{up.port} HTTP/1.1\r\nHost: {A}:{up.port}\r\n\r\n".encode()
                )
                assert problem(answer)[1]["error"] == "uninspected_credentials"
                # Through the proxy itself requests are seen, and so are signed.
                client = await proxy.connect()
                request = put(target=f"http://{A}:{up.port}/k")(up.port)
                assert await client.request(request) == (200, b"ok")
    assert len(up.requests) == 2


async def test_a_rotated_key_signs_the_next_request_of_an_open_connection():
    async with Upstream(verifying, tls_name=A) as up, signing(up) as proxy:
        client = await proxy.tls(A, up.port)
        assert await client.request(put()(up.port)) == (200, b"ok")
        generation = proxy.holder.current
        proxy._credentials = CredentialSet.build(
            2,
            KEYS | {"AWS_ACCESS_KEY_ID": "AKIDNEXT"},
            bindings(A, up.port),
            previous=generation.credentials,
        )
        proxy.reload(proxy._policy)
        # The verifier does not know that key, which shows that it was used.
        assert await client.request(put()(up.port)) == (403, b"no")
    assert fault_in(up.requests[-1]) == "unknown access key"
    assert b"Credential=AKIDNEXT/" in up.requests[-1].header(b"authorization")


async def test_large_bodies_take_turns_and_give_their_place_back():
    size = BODY_LIMIT + 1
    large = partial(head, "PUT", "/k", ("Expect", "100-continue"), length=size)
    async with Upstream(verifying) as up, signing(up) as proxy:
        clients = [await proxy.tunnel(A, up.port) for _ in range(LARGE_BODIES + 1)]
        *first, last = clients
        for client in first:
            await client.send(large(port=up.port))
            assert b" 100 " in await client.head()
        await last.send(large(port=up.port))
        # Small ones need no place.
        small = await proxy.tunnel(A, up.port)
        assert await small.request(put(body=b"x")(up.port)) == (200, b"ok")
        waiting = asyncio.create_task(last.head())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        # One gives up, another is done: both places are free again.
        first[0].close()
        assert b" 100 " in await waiting
        assert await first[1].request(b"y" * size) == (200, b"ok")
        assert await last.request(b"z" * size) == (200, b"ok")
        again = await proxy.tunnel(A, up.port)
        await again.send(large(port=up.port))
        assert b" 100 " in await again.head()
    assert [len(r.body) for r in up.requests] == [1, size, size]
