"""The keys of the corporate proxy: what is read, what is refused, and that no value is quoted."""

import os
from pathlib import Path
from typing import Any

import pytest

from openshell.drivers.upstream_proxy import (
    ProxyBypass,
    UpstreamProxyError,
    read_proxy_credential,
    read_proxy_table,
)

PREFIX = "openshell.drivers.local"
GOOD = "http://proxy.example:3128"


def refusal(table: dict[str, Any]) -> str:
    with pytest.raises(UpstreamProxyError) as caught:
        read_proxy_table(table, PREFIX)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        (GOOD, "proxy.example", 3128),
        ("HTTP://Proxy.Example:1", "proxy.example", 1),
        ("http://192.0.2.7:65535", "192.0.2.7", 65535),
        ("http://[2001:DB8::1]:3128", "2001:db8::1", 3128),
        ("http://proxy_1:80", "proxy_1", 80),
    ],
)
def test_a_url_of_host_and_port_is_read(url: str, host: str, port: int) -> None:
    proxy = read_proxy_table({"https_proxy": url}, PREFIX)
    assert proxy is not None
    assert (proxy.host, proxy.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy.example:3128",
        "https://proxy.example:3128",
        "socks5://proxy.example:3128",
        "http://proxy.example",
        "http://proxy.example:0",
        "http://proxy.example:65536",
        "http://proxy.example:3128/",
        "http://proxy.example:3128?x",
        "http://proxy.example:3128#x",
        "http://user:hunter2@proxy.example:3128",
        "http://:3128",
        "http://-x:3128",
        "http://999.1.1.1:3128",
        "http://[::g]:3128",
        "http://proxy.example:3128\n",
        " http://proxy.example:3128",
    ],
)
def test_any_other_url_is_refused_and_not_quoted(url: str) -> None:
    said = refusal({"https_proxy": url})
    assert said.startswith(f"{PREFIX}.https_proxy must be http://HOST:PORT")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"no_proxy": "*"}, "no_proxy"),
        ({"proxy_auth_file": "/x"}, "proxy_auth_file"),
        ({"proxy_auth_allow_insecure": True}, "proxy_auth_allow_insecure"),
        ({"proxy_connect_by_hostname": True}, "proxy_connect_by_hostname"),
        ({"https_proxy": GOOD, "proxy_auth_allow_insecure": True}, "proxy_auth_allow_insecure"),
        ({"https_proxy": GOOD, "proxy_auth_file": "/x"}, "proxy_auth_file"),
        ({"https_proxy": 3}, "https_proxy"),
        ({"https_proxy": GOOD, "no_proxy": ["a"]}, "no_proxy"),
        ({"https_proxy": GOOD, "proxy_connect_by_hostname": "yes"}, "proxy_connect_by_hostname"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_combinations_that_make_no_sense_are_refused(table: dict[str, Any], key: str) -> None:
    assert refusal(table).startswith(f"{PREFIX}.{key}")


def test_nothing_is_configured_without_keys() -> None:
    assert read_proxy_table({"no_proxy": "", "proxy_connect_by_hostname": False}, PREFIX) is None


@pytest.mark.parametrize(
    ("entry", "read"),
    [
        ("*", ProxyBypass()),
        ("*:8443", ProxyBypass(port=8443)),
        ("Example.COM.", ProxyBypass(domain="example.com")),
        (".example.com", ProxyBypass(domain="example.com")),
        ("*.example.com:443", ProxyBypass(domain="example.com", port=443)),
        ("10.0.0.0/8", ProxyBypass(network="10.0.0.0/8")),
        ("10.1.2.3/8:80", ProxyBypass(network="10.0.0.0/8", port=80)),
        ("192.0.2.1", ProxyBypass(network="192.0.2.1/32")),
        ("fd00::/8", ProxyBypass(network="fd00::/8")),
        ("[fd00::1]:443", ProxyBypass(network="fd00::1/128", port=443)),
        ("[fd00::/8]", ProxyBypass(network="fd00::/8")),
    ],
)
def test_entries_of_no_proxy_are_read(entry: str, read: ProxyBypass) -> None:
    proxy = read_proxy_table({"https_proxy": GOOD, "no_proxy": f" {entry} ,,"}, PREFIX)
    assert proxy is not None
    assert proxy.bypasses == (read,)


@pytest.mark.parametrize(
    "entry",
    ["10.0.0.256", "10.0.0", "a b", "a..b", "http://a", "a:0", "a:65536", "a:b", "a*", "[a]:1",
     "[::1", "10.0.0.0/33", "a/8", "*.*.a", "-", "::g"],
)  # fmt: skip
def test_other_entries_are_refused_by_their_number(entry: str) -> None:
    assert f"{PREFIX}.no_proxy: entry 2 is no" in refusal(
        {"https_proxy": GOOD, "no_proxy": f"a.example, {entry}"}
    )


def test_a_list_without_end_is_refused() -> None:
    assert "more than 256" in refusal({"https_proxy": GOOD, "no_proxy": "a," * 257})


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"user:pass\n", "user:pass"),
        (b"  u:p:q  ", "u:p:q"),
        (b"u:", "u:"),
        ("ü:ß".encode(), "ü:ß"),
        (b"u:" + b"x" * 4094, "u:" + "x" * 4094),
    ],
)
def test_a_credential_file_is_read(tmp_path: Path, content: bytes, read: str) -> None:
    (tmp_path / "auth").write_bytes(content)
    assert read_proxy_credential(str(tmp_path / "auth")) == read


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "one line"),
        (b"hunter2", "one line"),
        (b":hunter2", "one line"),
        (b"user:hunter2\nX: y", "one line"),
        (b"user:hunter2\x00", "one line"),
        (b"user:hunter2\xff", "not UTF-8"),
        (b"user:hunter2" + b" " * 4096, "more than 4096"),
    ],
)
def test_another_credential_file_is_refused_and_not_shown(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "auth").write_bytes(content)
    table = {"https_proxy": GOOD, "proxy_auth_allow_insecure": True}
    said = refusal(table | {"proxy_auth_file": str(tmp_path / "auth")})
    assert said.startswith(f"{PREFIX}.proxy_auth_file: ")
    assert words in said
    assert "hunter2" not in said


def test_a_credential_file_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(UpstreamProxyError):
            read_proxy_credential(str(path))
