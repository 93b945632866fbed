"""Commands in a running sandbox."""

import asyncio
import uuid

import pytest

from openshell._proto import openshell_ext_pb2


async def test_commands(world):
    box = await world.create("sleep", "100", environment={"COLOUR": "blue"})
    run = world.gateway.run
    cases = {
        ("true",): (0, b"", b""),
        ("false",): (1, b"", b""),
        ("sh", "-c", "exit 7"): (7, b"", b""),
        ("echo", "a  b", "$HOME", "*"): (0, b"a  b $HOME *\n", b""),
        ("sh", "-c", "echo out; echo err >&2"): (0, b"out\n", b"err\n"),
        ("sh", "-c", "kill -TERM $$"): (143, b"", b""),
        ("pwd",): (0, b"/sandbox\n", b""),
        ("sh", "-c", "echo $COLOUR $OPENSHELL_SANDBOX $HTTPS_PROXY"): (
            0,
            b"blue 1 http://10.200.0.1:3128\n",
            b"",
        ),
        ("cat", "/etc/openshell-tls/no"): (1, b"", None),
    }
    for argv, (code, out, err) in cases.items():
        ran = await run(box, *argv)
        assert (ran.code, ran.stdout) == (code, out), argv
        assert err is None or ran.stderr == err, argv
        assert ran.pid > 1

    missing = await run(box, "no-such-command")
    assert (missing.code, missing.pid) == (127, 0)
    assert missing.exit.error_code == "COMMAND_NOT_FOUND"
    assert (await run(box, "cat", stdin=b"hello")).stdout == b"hello"
    big = b"x" * 3_000_000
    relay = await world.gateway.relay(box, exec=target("wc", "-c", has_stdin=True))
    for start in range(0, len(big), 60_000):
        await relay.send(stdin=big[start : start + 60_000])
    await relay.send(stdin_eof=True)
    assert (await relay.collect()).stdout.split() == [b"3000000"]
    flood = await run(box, "sh", "-c", "head -c 5000000 /dev/zero")
    assert len(flood.stdout) == 5_000_000
    assert (await run(box, "pwd", workdir="/tmp")).stdout == b"/tmp\n"
    assert (await run(box, "sh", "-c", "echo $X", environment={"X": "1"})).stdout == b"1\n"


def target(*argv, **more):
    return openshell_ext_pb2.ExecTarget(exec_id=str(uuid.uuid4()), argv=argv, **more)


async def test_a_command_whose_time_ran_out(world):
    box = await world.create()
    ran = await world.gateway.run(box, "sh", "-c", "sleep 50 & sleep 50", timeout_seconds=1)
    assert ran.code == 124
    assert ran.exit.timed_out
    assert (await world.gateway.run(box, "pgrep", "sleep")).code == 1


async def test_a_terminal(world):
    box = await world.create()
    relay = await world.gateway.relay(
        box,
        exec=target(
            "sh",
            "-c",
            "stty size; read line; echo got $line; stty size",
            tty=True,
            cols=100,
            rows=30,
        ),
    )
    await relay.send(resize=openshell_ext_pb2.Resize(cols=120, rows=40))
    await relay.send(stdin=b"word\n")
    ran = await relay.collect()
    assert b"got word" in ran.stdout
    assert b"40 120" in ran.stdout
    assert ran.code == 0


async def test_a_requester_that_leaves_ends_its_command(world):
    box = await world.create()
    relay = await world.gateway.relay(box, exec=target("sh", "-c", "echo here; sleep 100"))
    while (await relay.next()).WhichOneof("frame") != "stdout":
        pass
    async with asyncio.timeout(5):
        while (await world.gateway.run(box, "pgrep", "sleep")).code != 0:
            await asyncio.sleep(0.05)
    relay.close()
    async with asyncio.timeout(5):
        while (await world.gateway.run(box, "pgrep", "sleep")).code == 0:
            await asyncio.sleep(0.05)


async def test_a_signal_by_name(world):
    box = await world.create()
    relay = await world.gateway.relay(
        box, exec=target("sh", "-c", "trap 'echo caught; exit 3' INT; echo up; sleep 100 & wait")
    )
    while (await relay.next()).WhichOneof("frame") != "stdout":
        pass
    await relay.send(signal="INT")
    ran = await relay.collect()
    assert (ran.stdout, ran.code) == (b"caught\n", 3)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"tcp": {}}, "port 0 is not between"),
        ({"tcp": {"host": "10.200.0.1", "port": 3128}}, "own loopback"),
        ({"tcp": {"host": "localhost", "port": 9}}, "Connection refused"),
    ],
    ids=["no port", "the proxy", "nobody listens"],
)
async def test_relays_that_are_refused(world, target, says):
    box = await world.create()
    with pytest.raises(RuntimeError, match=says):
        await world.gateway.relay(box, **target)


async def test_many_commands_at_once(world):
    box = await world.create()
    runs = [world.gateway.run(box, "sh", "-c", f"echo {n}") for n in range(40)]
    assert [int(ran.stdout) for ran in await asyncio.gather(*runs)] == list(range(40))


async def test_a_request_that_comes_twice_at_once_starts_one_program(world):
    box = await world.create()
    same = target("sh", "-c", "echo run >> /sandbox/runs; sleep 0.5; echo done")
    relays = [await world.gateway.relay(box, exec=same) for _ in range(2)]
    first = asyncio.gather(*(relay.collect() for relay in relays), return_exceptions=True)
    async with asyncio.timeout(10):
        await first
    assert (await world.gateway.run(box, "cat", "/sandbox/runs")).stdout == b"run\n"


async def test_arguments_beyond_every_bound_are_an_answer_and_hurt_nobody(world):
    box = await world.create("sleep", "100")
    run = world.gateway.run
    for size, code in ((100_000, 0), (140_000, 126), (3_000_000, 126)):
        ran = await run(box, "true", "x" * size)
        assert ran.code == code, (size, ran.exit)
    huge = await run(box, "true", *("x" * 100_000 for _ in range(35)))
    assert huge.exit.error_code == "ARGUMENTS_TOO_LARGE"
    named = await run(box, "true", environment={"A=B": "c"})
    assert named.exit.error_code == "INVALID_ARGUMENT"
    for cwd in ("/sandbox/\0", "/" + "d/" * 4000):
        assert (await run(box, "true", workdir=cwd)).code == 126
    assert (await run(box, "echo", "alive")).stdout == b"alive\n"
