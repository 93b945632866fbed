"""What a supervisor is handed, and what it may write."""

import pytest

from openshell._proto import openshell_pb2
from openshell.gateway.credentials import DatabaseCredentialStore, KeyEncryptionKey
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.events import LOGS
from openshell.gateway.records import Kind
from openshell.gateway.services.provider_environment import ProviderEnvironment
from openshell.gateway.store import MatchResourceVersion, NewRow, sql_tx
from support.policies import BOUND, OPEN


async def refused(call):
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


async def test_a_bound_credential_comes_with_its_endpoints(gateway, clock):
    created = await gateway.provider(expires={"API_KEY": clock.now + 1000})
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    answer = await gateway.environment(box)
    assert dict(answer.environment) == {"API_KEY": "s3cr3t"}
    binding = answer.static_credential_bindings["API_KEY"]
    assert binding.credential_identity == f"{created.metadata.id}:API_KEY"
    assert not binding.workload_credential_handle
    assert [(e.host, e.port, e.path) for e in binding.endpoints] == [
        ("api.example.com", 443, "/v1/**")
    ]
    assert dict(answer.credential_expires_at_ms) == {"API_KEY": clock.now + 1000}
    assert not answer.non_secret_environment_keys
    assert answer.provider_env_revision == (await gateway.config(box)).provider_env_revision


async def test_an_unbound_provider_is_withheld_and_the_other_is_not(gateway, caplog):
    await gateway.provider()
    await gateway.provider("idle", {"TOKEN": "idle-secret"})
    box = await gateway.sandbox(providers=["idle", "work"], policy=BOUND)
    answer = await gateway.environment(box)
    assert sorted(answer.environment) == ["API_KEY"]
    assert sorted(answer.static_credential_bindings) == ["API_KEY"]
    assert "TOKEN" in caplog.text
    assert "idle-secret" not in caplog.text
    assert "s3cr3t" not in caplog.text


async def test_a_supervisor_without_bindings_gets_no_value(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    answer = await gateway.environment(box, bindings=False)
    assert not answer.environment
    assert not answer.static_credential_bindings
    assert answer.provider_env_revision


async def test_an_expired_value_is_not_sent(gateway, clock):
    await gateway.provider(expires={"API_KEY": clock.now + 1000})
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    before = await gateway.environment(box)
    clock.now += 1000
    after = await gateway.environment(box)
    assert sorted(before.environment) == ["API_KEY"]
    assert not after.environment
    assert after.provider_env_revision != before.provider_env_revision


async def test_an_environment_is_for_its_own_supervisor(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    other = await gateway.sandbox("other")
    request = openshell_pb2.GetSandboxProviderEnvironmentRequest(sandbox_id=box.metadata.id)
    for principal in (None, other):
        if principal is None:
            error = await refused(gateway.GetSandboxProviderEnvironment(request))
        else:
            with gateway.as_sandbox(principal):
                error = await refused(gateway.GetSandboxProviderEnvironment(request))
        assert error.code is Code.PERMISSION_DENIED


async def test_another_key_file_is_told_and_sends_nothing(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    assert (await gateway.environment(box)).environment
    wrong = DatabaseCredentialStore(KeyEncryptionKey(bytes(32)))
    gateway.parts = (*gateway.parts[:-1], ProviderEnvironment(gateway.store, wrong))
    error = await refused(gateway.environment(box))
    assert error.code is Code.FAILED_PRECONDITION
    assert "key-encryption-key" in error.message


async def test_swapped_rows_do_not_open(gateway):
    """Who can write the database cannot give one provider another one's secret."""
    await gateway.provider()
    await gateway.provider("other", {"TOKEN": "x"})
    box = await gateway.sandbox(providers=["work"], policy=BOUND)

    def swap(tx):
        first, second = tx.all(Kind.CREDENTIAL)
        for row, payload in ((first, second.payload), (second, first.payload)):
            tx.put(
                NewRow(id=row.id, kind=row.kind, payload=payload),
                MatchResourceVersion(row.resource_version),
            )

    await gateway.store.write(swap)
    assert (await refused(gateway.environment(box))).code is Code.FAILED_PRECONDITION


async def batches(*requests):
    for request in requests:
        yield request


def batch(sandbox, *messages, **fields):
    return openshell_pb2.PushSandboxLogsRequest(
        sandbox_id=sandbox.metadata.id if sandbox else "",
        logs=[
            openshell_pb2.SandboxLogLine(
                message=message, **{"timestamp_ms": n, "level": "INFO", **fields}
            )
            for n, message in enumerate(messages)
        ],
    )


async def read(gateway, sandbox, **fields):
    return await gateway.GetSandboxLogs(
        openshell_pb2.GetSandboxLogsRequest(sandbox_id=sandbox.metadata.id, **fields)
    )


async def test_logs_are_kept_for_their_sender_as_its_own(gateway):
    box = await gateway.sandbox()
    woken = []
    gateway.bus.listen(LOGS, lambda key, _value: woken.append(key))
    forged = batch(
        box, "one", "two", source="gateway", sandbox_id="somebody-else", fields={"a": "b"}
    )
    with gateway.as_sandbox(box):
        await gateway.PushSandboxLogs(batches(batch(None, "skipped"), forged, batch(box, "three")))
    answer = await read(gateway, box)
    assert [line.message for line in answer.logs] == ["one", "two", "three"]
    assert {(line.source, line.sandbox_id) for line in answer.logs} == {
        ("sandbox", box.metadata.id)
    }
    assert dict(answer.logs[0].fields) == {"a": "b"}
    assert answer.buffer_total == 3
    assert woken == [box.metadata.id] * 2


async def test_logs_of_another_sandbox_are_refused(gateway):
    box, other = await gateway.sandbox(), await gateway.sandbox("other")
    with gateway.as_sandbox(box):
        pushed = gateway.PushSandboxLogs(batches(batch(box, "mine"), batch(other, "not mine")))
        assert (await refused(pushed)).code is Code.PERMISSION_DENIED
    assert [line.message for line in (await read(gateway, box)).logs] == ["mine"]
    assert not (await read(gateway, other)).logs


async def test_logs_of_a_deleted_sandbox_are_refused(gateway):
    box = await gateway.sandbox()
    await gateway.store.write(lambda tx: tx.delete(Kind.SANDBOX, box.metadata.id))
    with gateway.as_sandbox(box):
        error = await refused(gateway.PushSandboxLogs(batches(batch(box, "late"))))
    assert error.code is Code.NOT_FOUND


async def test_lines_are_cut_and_counted(gateway):
    box = await gateway.sandbox()
    fields = {f"k{n}": "v" * 10_000 for n in range(100)}
    with gateway.as_sandbox(box):
        await gateway.PushSandboxLogs(
            batches(
                batch(box, *["x"] * 150), batch(box, "y" * 100_000, level="L" * 999, fields=fields)
            )
        )
    answer = await read(gateway, box)
    assert answer.buffer_total == 101
    last = answer.logs[-1]
    assert len(last.message) == 8192
    assert len(last.level) == 256
    assert len(last.fields) == 64
    assert {len(value) for value in last.fields.values()} == {8192}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        pytest.param({}, "ewiodt?", id="all"),
        pytest.param({"min_level": "INFO"}, "ewio", id="INFO takes OCSF"),
        pytest.param({"min_level": "error"}, "e", id="any case"),
        pytest.param({"min_level": "TRACE"}, "ewiodt", id="unknown levels are the least"),
        pytest.param({"sources": ["gateway"]}, "", id="other source"),
        pytest.param({"sources": ["sandbox"], "since_ms": 3}, "odt?", id="since"),
        pytest.param({"lines": 2, "min_level": "TRACE"}, "t", id="taken before filtering"),
    ],
)
async def test_logs_are_filtered(gateway, fields, wanted):
    box = await gateway.sandbox()
    levels = {
        "e": "ERROR",
        "w": "WARN",
        "i": "INFO",
        "o": "OCSF",
        "d": "debug",
        "t": "TRACE",
        "?": "X",
    }
    lines = [
        openshell_pb2.SandboxLogLine(message=message, level=level, timestamp_ms=n)
        for n, (message, level) in enumerate(levels.items())
    ]
    request = openshell_pb2.PushSandboxLogsRequest(sandbox_id=box.metadata.id, logs=lines)
    with gateway.as_sandbox(box):
        await gateway.PushSandboxLogs(batches(request))
    answer = await read(gateway, box, **fields)
    assert "".join(line.message for line in answer.logs) == wanted


async def read_back(gateway, sandbox, **fields):
    """All pages, newest first, as a client asks for them."""
    pages = [await read(gateway, sandbox, **fields)]
    while pages[-1].oldest_id:
        assert len(pages) < 50
        pages.append(await read(gateway, sandbox, before_id=pages[-1].oldest_id, **fields))
    return pages


def messages(pages):
    return [line.message for page in reversed(pages) for line in page.logs]


async def test_an_answer_fits_a_client_and_keeps_the_newest(gateway):
    box = await gateway.sandbox()
    pushed = [batch(box, *[f"{n}-{i}-" + "x" * 8000 for i in range(100)]) for n in range(6)]
    with gateway.as_sandbox(box):
        await gateway.PushSandboxLogs(batches(*pushed))
    answer = await read(gateway, box)
    assert 2 << 20 < answer.ByteSize() <= 3 << 20
    assert answer.logs[-1].message.startswith("5-99-")
    assert answer.buffer_total == len(answer.logs) < 600
    assert not answer.is_complete
    pages = await read_back(gateway, box)
    assert len(pages) == 2
    assert messages(pages) == [line.message for push in pushed for line in push.logs]


@pytest.mark.parametrize("size", [1, 3, 4, 9, 10, 11], ids="pages of {}".format)
async def test_pages_are_the_whole_log(gateway, size):
    box, other = await gateway.sandbox(), await gateway.sandbox("other")
    for n in range(5):
        for one in (box, other):
            with gateway.as_sandbox(one):
                lines = batch(one, f"{n}a", f"{n}b", level="INFO" if n % 2 else "DEBUG")
                await gateway.PushSandboxLogs(batches(lines))
    pages = await read_back(gateway, box, lines=size)
    wanted = [f"{n}{half}" for n in range(5) for half in "ab"]
    assert messages(pages) == wanted
    assert len(pages) == -(-10 // size)
    assert [page.is_complete for page in pages] == [False] * (len(pages) - 1) + [True]
    assert sum(page.buffer_total for page in pages) == 10
    filtered = await read_back(gateway, box, lines=size, min_level="INFO")
    assert messages(filtered) == [text for text in wanted if text[0] in "13"]


@pytest.mark.parametrize(
    ("since_ms", "times", "count"),
    [
        pytest.param(0, range(10), 4, id="no time"),
        pytest.param(8, range(10), 2, id="one page more than needed"),
        pytest.param(99, range(10), 1, id="nothing is new enough"),
        pytest.param(6, [9, 9, 1, 9, 9, 9, 1, 9, 9, 9], 4, id="clocks step"),
    ],
)
async def test_pages_end_where_nothing_is_new_enough(gateway, since_ms, times, count):
    box = await gateway.sandbox()
    lines = [
        openshell_pb2.SandboxLogLine(message=str(n), level="INFO", timestamp_ms=time)
        for n, time in enumerate(times)
    ]
    request = openshell_pb2.PushSandboxLogsRequest(sandbox_id=box.metadata.id, logs=lines)
    with gateway.as_sandbox(box):
        await gateway.PushSandboxLogs(batches(request))
    pages = await read_back(gateway, box, lines=3, since_ms=since_ms)
    assert len(pages) == count
    assert messages(pages) == [str(n) for n, time in enumerate(times) if time >= since_ms]
    assert pages[-1].is_complete


async def test_a_log_that_lost_lines_says_so(gateway, monkeypatch):
    monkeypatch.setattr(sql_tx, "LOG_LINES_MAX", 50)
    monkeypatch.setattr(sql_tx, "LOG_LINES_SLACK", 10)
    box = await gateway.sandbox()
    for n in range(7):
        with gateway.as_sandbox(box):
            await gateway.PushSandboxLogs(batches(batch(box, *[f"{n}-{i}" for i in range(10)])))
        last = (await read_back(gateway, box, lines=20))[-1]
        assert last.is_complete is (n < 4)
    pages = await read_back(gateway, box, lines=20)
    assert messages(pages)[0] == "2-0"
    # Nothing that was asked for is missing.
    with gateway.as_sandbox(box):
        await gateway.PushSandboxLogs(batches(batch(box, *["new"] * 10, timestamp_ms=100)))
    assert (await read_back(gateway, box, lines=20, since_ms=100))[-1].is_complete


async def test_an_empty_log_is_whole(gateway):
    box = await gateway.sandbox()
    (page,) = await read_back(gateway, box)
    assert (len(page.logs), page.is_complete) == (0, True)


async def test_logs_of_nobody(gateway):
    box = await gateway.sandbox(policy=OPEN)
    negative = read(gateway, box, before_id=-1)
    assert (await refused(negative)).code is Code.INVALID_ARGUMENT
    for sandbox_id, code in (("", Code.INVALID_ARGUMENT), ("absent", Code.NOT_FOUND)):
        request = openshell_pb2.GetSandboxLogsRequest(sandbox_id=sandbox_id)
        assert (await refused(gateway.GetSandboxLogs(request))).code is code
