"""What tests run inside a sandbox: one small network client, told by JSON what to send.

Stand-alone: its text is given to an interpreter inside with `-c`, a list of steps on standard input;
it prints a list of results. It does what it is told and judges nothing.
"""

import json
import os
import socket
import ssl
import struct
import sys

PROXY = ("10.200.0.1", 3128)
TIMEOUT = 8.0


def receive(sock: socket.socket) -> bytes:
    """Everything until the peer closes; a reset counts as the end."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionError:
        pass
    except TimeoutError:
        data += b"<timeout>"
    return data


def head(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = sock.recv(1)
        if not more:
            break
        data += more
    return data


def exchange(sock: socket.socket, step: dict[str, str]) -> str:
    try:
        for part in step["send"].split("<pause>"):
            sock.sendall(part.encode("latin-1"))
    except ConnectionError:
        pass
    return receive(sock).decode("latin-1")


def raw(step: dict[str, str]) -> str:
    """Bytes to any address, the explicit proxy by default."""
    address = (step["host"], int(step["port"])) if "host" in step else PROXY
    with socket.create_connection(address, TIMEOUT) as sock:
        return exchange(sock, step)


def tunnel(step: dict[str, str]) -> str:
    """CONNECT, then bytes; the refusal's head and body when there is no tunnel."""
    with socket.create_connection(PROXY, TIMEOUT) as sock:
        target = step["target"]
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("latin-1"))
        answer = head(sock)
        if b" 200 " not in answer.split(b"\r\n")[0]:
            return (answer + receive(sock)).decode("latin-1")
        return exchange(secure(sock, step), step)


def direct_tls(step: dict[str, str]) -> str:
    with socket.create_connection((step["host"], int(step["port"])), TIMEOUT) as sock:
        return exchange(secure(sock, step), step)


def secure(sock: socket.socket, step: dict[str, str]) -> socket.socket:
    if "sni" not in step:
        return sock
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    if step.get("trust") == "anything":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock, server_hostname=step["sni"] or None)


def udp(step: dict[str, str]) -> str:
    family = socket.AF_INET6 if ":" in step["host"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendto(step.get("send", "x").encode("latin-1"), (step["host"], int(step["port"])))
        return "sent" if "answer" not in step else sock.recv(4096).decode("latin-1")


def ping(step: dict[str, str]) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendto(struct.pack("!BBHHH", 8, 0, 0, 1, 1), (step["host"], 0))
        return "sent"


def lookup(step: dict[str, str]) -> str:
    found = socket.getaddrinfo(step["name"], 80, type=socket.SOCK_STREAM)
    return " ".join(sorted({item[4][0] for item in found}))


def query(step: dict[str, str]) -> str:
    """A DNS question of any type, by hand; the answer's code and number of records."""
    labels = b"".join(
        bytes([len(label)]) + label.encode("latin-1") for label in step["name"].split(".") if label
    )
    message = struct.pack("!6H", 4242, 0x0100, 1, 0, 0, 0) + labels + b"\0"
    message += struct.pack("!HH", int(step["type"]), 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.sendto(message, (step.get("host", "10.200.0.1"), 53))
        answer = sock.recv(4096)
    codes = {0: "NOERROR", 1: "FORMERR", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
    code = answer[3] & 15
    return f"{codes.get(code, code)} {struct.unpack_from('!H', answer, 6)[0]}"


STEPS = {
    function.__name__: function for function in (raw, tunnel, direct_tls, udp, ping, lookup, query)
}


def main() -> None:
    results = []
    for step in json.load(sys.stdin):
        try:
            step = {
                key: os.path.expandvars(value) if key == "send" else value
                for key, value in step.items()
            }
            results.append(STEPS[step["op"]](step))
        except OSError as error:
            results.append(f"{type(error).__name__}: {error}")
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
