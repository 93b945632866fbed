"""What remains where the kernel offers less, and what is said about it."""

from __future__ import annotations

import os
import tempfile

from e2e.isolation.sandboxes import running_sandbox


def test_without_nftables_only_the_explicit_proxy_remains(mode: str) -> None:
    with running_sandbox(mode, without_nftables=True) as lesser:
        status, detail = lesser.layers["network"]
        assert status == "partly"
        assert "explicit proxy only (protocol: tcp by CONNECT only)" in detail
        assert "capture_v4" not in lesser.greeting["listeners"]
        proxied = {"op": "accept", "listener": "proxy", "argv": ["connect_tcp", "10.200.0.1|3128"]}
        assert lesser.ask(proxied)["accepted"]
        for probe in ("connect_tcp", "send_udp"):
            for address in ("8.8.8.8|443", "2001:db8::1|443"):
                assert lesser.probe(probe, address)["outcome"] in {"ENETUNREACH", "EADDRNOTAVAIL"}


def test_without_overlay_etc_is_put_together_entry_by_entry(mode: str) -> None:
    with running_sandbox(mode, without_overlay=True) as lesser:
        assert lesser.layers["filesystem"][0] == "enforced"
        assert lesser.probe("read", "/etc/os-release")["outcome"] == "ok"
        assert lesser.probe("read", "/etc/shadow")["outcome"] == "empty"
        assert "sandbox" in lesser.run("id", "-un")["stdout"]
        assert lesser.probe("create", "/etc/escape")["outcome"] in {"EACCES", "EROFS"}
        ssl = lesser.run("sh", "-c", "ls /etc/ssl/certs | wc -l")
        assert int(ssl["stdout"]) >= 0


def test_without_overlay_credentials_are_covered_one_by_one_and_it_is_said(mode: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="openshell-tools-") as base:
        os.chmod(base, 0o755)
        for name in ("token", "tool"):
            with open(f"{base}/{name}", "w", encoding="utf-8") as file:
                file.write("content")
        options = {"exposed": [[base]], "masks": [f"{base}/token"]}
        with running_sandbox(mode, **options, without_overlay=True) as lesser:
            assert lesser.probe("read", f"{base}/tool")["outcome"] == "ok"
            assert lesser.probe("read", f"{base}/token")["outcome"] == "empty"
            status, detail = lesser.layers["exposed_directories"]
            assert (status, base in detail) == ("partly", True)


def test_a_host_without_user_namespaces_is_told_what_to_change(mode: str) -> None:
    with running_sandbox(mode, without_user_namespaces=True) as refused:
        assert refused.greeting["step"] == "namespaces"
        assert "user.max_user_namespaces" in refused.greeting["text"]
