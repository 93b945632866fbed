"""The owner of a loopback connection, asked of the real kernel."""

import contextlib
import os
import socket

import pytest

from openshell.gateway.peer import peer_address, uid_of_peer


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5", ("127.0.0.1", 5)),
        ("ipv6:%5B::1%5D:5", ("::1", 5)),
        ("ipv6:[::ffff:127.0.0.1]:5", ("127.0.0.1", 5)),
        ("unix:", None),
        ("unix:/a:5", None),
        ("ipv4:x:5", None),
        ("ipv4:127.0.0.1", None),
        ("", None),
    ],
)
def test_peer_strings(peer, address):
    assert peer_address(peer) == address


@pytest.mark.parametrize(
    ("family", "host", "listen"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.1", "0.0.0.0"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_our_own_connection_is_ours(family, host, listen):
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server((listen, 0), family=family))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        port = server.getsockname()[1]
        client = stack.enter_context(socket.create_connection((host, port)))
        stack.enter_context(server.accept()[0])
        name = client.getsockname()
        shown = f"ipv6:[{name[0]}]:{name[1]}" if ":" in host else f"ipv4:{name[0]}:{name[1]}"
        assert uid_of_peer(shown, listen, port) == os.getuid()
    assert uid_of_peer("ipv4:127.0.0.1:1", "127.0.0.1", 1) is None
    assert uid_of_peer("ipv4:192.0.2.1:1", "0.0.0.0", 1) is None


def test_a_dual_stack_client_is_found_too():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        try:
            client = stack.enter_context(socket.socket(socket.AF_INET6))
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            client.connect(("::ffff:127.0.0.1", port))
        except OSError:
            pytest.skip("this machine has no dual-stack sockets")
        stack.enter_context(server.accept()[0])
        peer = f"ipv6:[::ffff:127.0.0.1]:{client.getsockname()[1]}"
        assert uid_of_peer(peer, "127.0.0.1", port) == os.getuid()
