"""Gateway and supervisor: configuration, reports, attachments, coming back."""

import asyncio

from openshell._proto import openshell_ext_pb2, openshell_pb2, sandbox_pb2
from support.fake_gateway import FakeGateway

ATTACH = openshell_ext_pb2.AttachTarget


def set_policy(gateway, version, host="example.com", protocol=""):
    rule = sandbox_pb2.NetworkPolicyRule(
        name="r",
        endpoints=[sandbox_pb2.NetworkEndpoint(host=host, port=443, protocol=protocol)],
        binaries=[sandbox_pb2.NetworkBinary(path="/usr/bin/curl")],
    )
    gateway.config.policy.version = 1
    gateway.config.policy.network_policies["r"].CopyFrom(rule)
    gateway.config.version = version
    gateway.config.policy_hash = f"h{version}"
    gateway.config.config_revision = version


async def next_report(gateway):
    async with asyncio.timeout(5):
        return await gateway.policy_reports.get()


async def test_a_pushed_policy_is_loaded_and_reported(world):
    gateway = world.gateway
    box = await world.create()
    first = await next_report(gateway)
    assert (first.version, first.status) == (1, openshell_pb2.POLICY_STATUS_LOADED)
    set_policy(gateway, 2)
    await gateway.push(box)
    second = await next_report(gateway)
    assert (second.version, second.status) == (2, openshell_pb2.POLICY_STATUS_LOADED)


async def test_a_policy_that_cannot_be_used_quarantines_and_a_good_one_lifts_it(world):
    gateway = world.gateway
    box = await world.create()
    await next_report(gateway)
    set_policy(gateway, 2, protocol="sql")
    await gateway.push(box)
    failed = await next_report(gateway)
    assert failed.status == openshell_pb2.POLICY_STATUS_FAILED
    assert "sql" in failed.load_error
    set_policy(gateway, 3)
    await gateway.push(box)
    loaded = await next_report(gateway)
    assert (loaded.version, loaded.status) == (3, openshell_pb2.POLICY_STATUS_LOADED)
    async with asyncio.timeout(5):
        while not any("policy version 2" in line.message for line in gateway.lines):
            await asyncio.sleep(0.02)


async def test_provider_values_are_placeholders_inside(world):
    gateway = world.gateway
    gateway.environment.environment["API_KEY"] = "the-real-secret"
    gateway.environment.static_credential_bindings["API_KEY"].credential_identity = "p/API_KEY"
    gateway.environment.static_credential_bindings["API_KEY"].endpoints.add(
        host="example.com", port=443
    )
    box = await world.create()
    ran = await gateway.run(box, "sh", "-c", "echo $API_KEY; cat /proc/1/environ /proc/*/environ")
    assert b"openshell:resolve:env:" in ran.stdout
    assert b"the-real-secret" not in ran.stdout + ran.stderr


async def test_output_is_kept_for_a_late_attachment(world):
    box = await world.create("sh", "-c", "echo first; echo last >&2; exit 3")
    assert (await world.gateway.exits.get()).exit_code == 3
    ran = await (await world.gateway.relay(box, attach=ATTACH())).collect()
    assert (ran.stdout, ran.stderr, ran.code) == (b"first\n", b"last\n", 3)
    # Delivered: nothing keeps the supervisor any longer.
    status = await world.until(box, "ContainerExited", timeout=5)
    assert "exit code 3" in status.conditions[0].message


async def test_a_command_that_does_not_exist_is_an_exit(world):
    box = await world.create("no-such-command", ready=False)
    assert (await world.gateway.exits.get()).exit_code == 127
    ran = await (await world.gateway.relay(box, attach=ATTACH())).collect()
    assert ran.exit.error_code == "COMMAND_NOT_FOUND"


async def test_without_a_main_process_there_is_nothing_to_attach_to(world):
    box = await world.create()
    ran = await (await world.gateway.relay(box, attach=ATTACH())).collect()
    assert ran.exit.error_code == "NO_MAIN_PROCESS"


async def test_output_beyond_the_bound_is_cut_and_said_so(world):
    box = await world.create("sh", "-c", "head -c 3000000 /dev/zero; echo end")
    await world.gateway.exits.get()
    ran = await (await world.gateway.relay(box, attach=ATTACH())).collect()
    assert ran.stdout.endswith(b"end\n")
    assert len(ran.stdout) + ran.exit.truncated_bytes == 3_000_004
    assert ran.exit.truncated_bytes > 0


async def test_one_client_has_the_input(world):
    box = await world.create("sh", "-c", "while read line; do echo got $line; done")
    owner = await world.gateway.relay(box, attach=ATTACH(stdin=True))
    await owner.send(stdin=b"one\n")
    while (frame := await owner.next()).WhichOneof("frame") != "stdout":
        pass
    assert frame.stdout == b"got one\n"
    watcher = await world.gateway.relay(box, attach=ATTACH(stdin=True))
    first = await watcher.next()
    assert b"attached read-only" in first.stderr
    await watcher.send(stdin=b"ignored\n")
    await owner.send(stdin=b"two\n")
    assert (await owner.next()).stdout == b"got two\n"
    owner.close()
    await asyncio.sleep(0.1)
    heir = await world.gateway.relay(box, attach=ATTACH(stdin=True))
    await heir.send(stdin=b"three\n")
    text = b""
    while b"three" not in text:
        text += (await heir.next()).stdout
    assert b"ignored" not in text
    for relay in (watcher, heir):
        relay.close()


async def test_a_terminal_is_the_main_process_s(world):
    box = await world.create("sh", "-c", "stty size; tty; read x; stty size", tty=True)
    relay = await world.gateway.relay(box, attach=ATTACH(stdin=True, tty=True, cols=99, rows=33))
    await relay.send(stdin=b"\n")
    ran = await relay.collect()
    assert b"/dev/pts/" in ran.stdout
    assert b"33 99" in ran.stdout


async def test_the_session_comes_back_to_a_restarted_gateway(world):
    gateway = world.gateway
    box = await world.create("sh", "-c", "while :; do sleep 1; done")
    first = await gateway.hellos.get()
    assert (await next_report(gateway)).version == 1
    await gateway.stop()
    world.gateway = FakeGateway(f"{world.directory}/gateway.sock")
    set_policy(world.gateway, 7)
    await world.gateway.start()
    async with asyncio.timeout(10):
        again = await world.gateway.hellos.get()
    assert (again.sandbox_id, again.instance_id) == (box, first.instance_id)
    # Whose answer the end of the first gateway took away is told again.
    versions = [(await next_report(world.gateway)).version]
    if versions == [1]:
        versions = [(await next_report(world.gateway)).version]
    assert versions == [7]
    assert (await world.gateway.run(box, "true")).code == 0


async def test_the_exit_is_reported_when_the_gateway_is_back(world):
    box = await world.create("sh", "-c", "read x; echo taken; sleep 0.3; exit 9")
    relay = await world.gateway.relay(box, attach=ATTACH(stdin=True))
    await relay.send(stdin=b"\n")
    while (await relay.next()).WhichOneof("frame") != "stdout":
        pass
    await world.gateway.stop()
    world.gateway = FakeGateway(f"{world.directory}/gateway.sock")
    await world.gateway.start()
    async with asyncio.timeout(15):
        report = await world.gateway.exits.get()
    assert (report.sandbox_id, report.exit_code) == (box, 9)


async def test_a_direct_connection_is_refused_and_logged(world):
    box = await world.create()
    code = "import socket; s=socket.create_connection(('198.51.100.7', 80), 3); s.send(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100)[:12])"
    ran = await world.gateway.run(box, "/usr/bin/python3", "-c", code)
    assert b"HTTP/1.1 403" in ran.stdout or ran.code != 0, ran.stdout
    async with asyncio.timeout(5):
        while not any("198.51.100.7" in line.message for line in world.gateway.lines):
            await asyncio.sleep(0.02)
    line = next(line for line in world.gateway.lines if "198.51.100.7" in line.message)
    assert line.level == "OCSF"
    assert "DENIED" in line.message
    assert '"class_uid"' in line.fields["ocsf"]
