"""Every target holds for its corpus, and for what comes of damaging it; and costs no more than its input."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.corpus_files import CORPUS, escaped, read_corpus, read_lines, write_lines
from fuzz.targets import MAX_LEN, TARGETS
from fuzz.tokens import TOKENS

# How many damaged inputs a target sees in one run: make fuzz is for more.
EXAMPLES = 30


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    for name in TARGETS:
        inputs = read_corpus(name)
        assert len(inputs) == len(set(inputs)) >= 3, name


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name: str) -> None:
    for data in read_corpus(name):
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(escaped(data)) from error


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_hold(name: str) -> None:
    inputs = read_corpus(name)
    run = TARGETS[name]

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(inputs))
        other = data.draw(st.sampled_from(inputs))
        at = data.draw(st.integers(0, len(one)))
        skipped = data.draw(st.integers(0, 3))
        middle = data.draw(
            st.sampled_from(TOKENS)
            | st.binary(max_size=4)
            | st.just(other[data.draw(st.integers(0, len(other))) :])
        )
        run((one[:at] + middle + one[at + skipped :])[:MAX_LEN])

    holds()


# Inputs that grow: what is repeated, and what stands before and behind.
GROWING = {
    "path": (b"/a/../", b"", b""),
    "authority": (b"a.", b"", b"a"),
    "strict_json": (b'{"a":[', b"", b""),
    "rpc": (b'{"jsonrpc":"2.0","id":1,"method":"a"},', b"\1[", b"{}]"),
    "graphql": (b"{a", b'{"query":"', b'"}'),
    "graphql_get": (b"id=%61&", b"", b""),
    "graphql_message": (b'"', b'{"type":"', b""),
    "media_type": (b' ;a="\\', b"Content-Type: application/json", b""),
    "http1_request_head": (b"A: b\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"),
    "http1_requests_and_peers": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", b""),
    "http1_chunked_body": (b"1\r\na\r\n", b"", b"0\r\n\r\n"),
    "credentials_head": (b"openshell:resolve:env:KEY ", b"GET / HTTP/1.1\r\nX: ", b"\r\n\r\n"),
    "credentials_scanner": (b"%6f%70openshell:resolve:en", b"", b""),
    "credentials_form": (b"%6fpenshell:resolve:env:v7_KEY&", b"\0a=", b""),
    "credentials_json": (b'"openshell:resolve:env:v7_KEY",', b"\0[", b"1]"),
    "inference_usage": (b'data: {"usage":{}}\n', b"", b""),
    "websocket_server": (b"\x81\x01a", b"", b""),
    "websocket_client": (b"\x89\x80\0\0\0\0", b"\0", b""),
    "policy_document": (b"a: [", b"version: 1\n", b""),
    "profile_json": (b'{"id":', b"", b""),
    "event_lines": (b"\x1b\n", b"", b""),
}
# Eight times the input for thirty times the time: twice what is linear, and half of what is quadratic.
SMALL, FACTOR, ALLOWED = 1500, 8, 30


@pytest.mark.parametrize("name", GROWING)
def test_time_is_in_proportion(name: str) -> None:
    unit, before, behind = GROWING[name]
    small, large = (
        before + unit * (size // len(unit)) + behind for size in (SMALL, SMALL * FACTOR)
    )
    run = TARGETS[name]
    run(small)
    # A floor: what is over at once says nothing.
    once = max(min(_seconds(run, small) for _ in range(3)), 0.0005)
    assert min(_seconds(run, large) for _ in range(3)) < ALLOWED * once


def _seconds(run, data: bytes) -> float:  # type: ignore[no-untyped-def]
    start = time.process_time()
    run(data)
    return time.process_time() - start


def test_a_corpus_file_gives_back_what_was_written(tmp_path: Path) -> None:
    chance = random.Random(1)
    inputs = [bytes(range(256)), b"", b"# a", b" ", b'"', b'""', b"\\", b'\\"', b"\\n", b"a\r\nb"]
    inputs += [chance.randbytes(20) for _ in range(50)]
    write_lines(tmp_path / "x.txt", inputs)
    assert read_lines(tmp_path / "x.txt") == inputs


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this machine")
def test_a_short_look_guided_by_coverage() -> None:
    """All targets in one process, always from the same seed; `make fuzz` looks for longer."""
    script = Path(__file__).parent / "run.py"
    done = subprocess.run(
        [sys.executable, script, "--together", "--seconds", "3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name, _, count = done.stdout.strip().partition(": ")
    assert name == "all together"
    # At least the corpus; how many more depends on what else the machine does.
    assert int(count.split()[0]) > 500
