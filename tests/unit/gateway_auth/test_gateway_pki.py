"""Making, keeping and refusing sets of certificates, and what the certificates really do in TLS."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from openshell.gateway.certificates import DEFAULT_SERVER_SANS, Authority
from openshell.gateway.pki import (
    PkiError,
    PkiPaths,
    ensure_pki,
    generate_bundle,
    install_client_bundle,
)

ALL_FILES = {
    "ca.crt": 0o644,
    "ca.key": 0o600,
    "server/tls.crt": 0o644,
    "server/tls.key": 0o600,
    "client/tls.crt": 0o644,
    "client/tls.key": 0o600,
    "jwt/signing.pem": 0o600,
    "jwt/public.pem": 0o644,
    "jwt/kid": 0o644,
}
TLS = [name for name in ALL_FILES if not name.startswith("jwt/")]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "tls"


@pytest.fixture
def made(target: Path) -> PkiPaths:
    return ensure_pki(target).paths


def test_layout_and_modes(target: Path) -> None:
    report = ensure_pki(target)
    assert (report.tls_written, report.jwt_written) == (True, True)
    found = {str(p.relative_to(target)): mode(p) for p in target.rglob("*") if p.is_file()}
    assert found == ALL_FILES
    assert {mode(p) for p in [target, *target.rglob("*")] if p.is_dir()} == {0o700}


def test_certificates_say_what_they_are_for(made: PkiPaths) -> None:
    ca, server, client = (
        x509.load_pem_x509_certificate(path.read_bytes())
        for path in (made.ca, made.server_cert, made.client_cert)
    )
    assert ca.subject.rfc4514_string() == "CN=openshell-ca,O=openshell"
    assert server.subject.rfc4514_string() == "CN=openshell-server"
    assert client.subject.rfc4514_string() == "OU=openshell-user,CN=openshell-client"
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(n.value) for n in names} == set(DEFAULT_SERVER_SANS)
    assert {c.not_valid_after_utc.year for c in (ca, server, client)} == {9999}


def test_second_run_keeps_everything(target: Path) -> None:
    ensure_pki(target)
    before = contents(target)
    report = ensure_pki(target)
    assert (report.tls_written, report.jwt_written) == (False, False)
    assert contents(target) == before


def test_missing_token_keys_are_added(target: Path) -> None:
    ensure_pki(target)
    before = contents(target)
    shutil.rmtree(target / "jwt")
    report = ensure_pki(target)
    assert (report.tls_written, report.jwt_written) == (False, True)
    after = contents(target)
    assert {n: after[n] for n in TLS} == {n: before[n] for n in TLS}
    assert set(after) == set(ALL_FILES)


def test_new_name_renews_the_tls_half_only(target: Path) -> None:
    ensure_pki(target)
    before = contents(target)
    report = ensure_pki(target, ["gateway.example.com", "192.0.2.7"])
    assert (report.tls_written, report.jwt_written) == (True, False)
    after = contents(target)
    assert all(after[name] != before[name] for name in TLS)
    assert all(after[name] == before[name] for name in ALL_FILES if name not in TLS)
    cert = x509.load_pem_x509_certificate(after["server/tls.crt"])
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "gateway.example.com" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address("192.0.2.7") in names.get_values_for_type(x509.IPAddress)
    assert not ensure_pki(target, ["GATEWAY.example.com"]).tls_written


@pytest.mark.parametrize("missing", [["ca.key"], ["jwt/kid"], ["jwt/kid", "ca.crt"], TLS])
def test_partial_set_is_refused_untouched(target: Path, missing: list[str]) -> None:
    ensure_pki(target)
    for name in missing:
        (target / name).unlink()
    before = contents(target)
    with pytest.raises(PkiError, match="rm -rf"):
        ensure_pki(target)
    assert contents(target) == before


@pytest.mark.parametrize("name", ["ca.crt", "server/tls.crt", "server/tls.key", "client/tls.key"])
def test_set_that_does_not_fit_together_is_refused(target: Path, tmp_path: Path, name: str) -> None:
    ensure_pki(target)
    other = ensure_pki(tmp_path / "other").paths.directory
    (target / name).write_bytes((other / name).read_bytes())
    with pytest.raises(PkiError, match="rm -rf"):
        ensure_pki(target)


def test_unreadable_certificate_is_refused(made: PkiPaths) -> None:
    made.server_cert.write_bytes(b"nonsense")
    with pytest.raises(PkiError, match="rm -rf"):
        ensure_pki(made.directory)


def test_remains_of_an_interrupted_run_are_cleared(target: Path) -> None:
    (target / ".certgen.tmp" / "server").mkdir(parents=True)
    (target / ".certgen.tmp" / "ca.key").write_text("half")
    target.chmod(0o700)
    ensure_pki(target)
    assert set(contents(target)) == set(ALL_FILES)


def test_lax_key_is_tightened(made: PkiPaths) -> None:
    made.ca_key.chmod(0o644)
    ensure_pki(made.directory)
    assert mode(made.ca_key) == 0o600


def test_directory_that_others_can_change_is_refused(target: Path) -> None:
    target.mkdir()
    target.chmod(0o777)
    with pytest.raises(PkiError, match="can be changed by others"):
        ensure_pki(target)


def test_target_that_is_a_file_is_refused(target: Path) -> None:
    target.write_text("")
    with pytest.raises(PkiError, match="cannot create"):
        ensure_pki(target)


@pytest.mark.parametrize("name", ["", "a b", "x..y", "-x", "*.*.x", "a/b", "x\n", "*"])
def test_impossible_name_is_refused_before_anything_is_written(target: Path, name: str) -> None:
    with pytest.raises(PkiError, match="neither an IP address nor a host name"):
        ensure_pki(target, [name])
    assert not target.exists()


def test_dry_run_makes_the_same_files() -> None:
    assert set(generate_bundle(["x.example"])) == set(ALL_FILES)


def test_two_runs_at_once_agree(target: Path) -> None:
    reports: list[bool] = []
    threads = [
        threading.Thread(target=lambda: reports.append(ensure_pki(target).tls_written))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reports) == [False, False, False, True]


def test_client_bundle_is_installed_and_replaced(made: PkiPaths, tmp_path: Path) -> None:
    mtls = tmp_path / "config" / "gateways" / "openshell" / "mtls"
    for _ in range(2):
        install_client_bundle(made, mtls)
        assert {p.name: mode(p) for p in mtls.iterdir()} == {
            "ca.crt": 0o644,
            "tls.crt": 0o644,
            "tls.key": 0o600,
        }
        assert mode(mtls) == 0o700
        (mtls / "stale").write_text("of the bundle before")
    assert [p.name for p in mtls.parent.iterdir()] == ["mtls"]
    assert (mtls / "tls.key").read_bytes() == made.client_key.read_bytes()


def test_empty_file_leaves_the_old_client_bundle(made: PkiPaths, tmp_path: Path) -> None:
    mtls = tmp_path / "mtls"
    install_client_bundle(made, mtls)
    before = contents(mtls)
    made.client_cert.write_bytes(b"")
    with pytest.raises(PkiError, match="is empty"):
        install_client_bundle(made, mtls)
    assert contents(mtls) == before


def handshake(paths: PkiPaths, client: tuple[Path, Path], name: str = "localhost") -> str:
    """One TLS 1.2 handshake over a socket pair; what the server thinks of the client."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(paths.server_cert, paths.server_key)
    server.load_verify_locations(paths.ca)
    server.verify_mode = ssl.CERT_REQUIRED
    user = ssl.create_default_context(cafile=str(paths.ca))
    user.load_cert_chain(*client)
    # With 1.3 the client would be done before the server has judged its certificate.
    user.maximum_version = ssl.TLSVersion.TLSv1_2
    left, right = socket.socketpair()
    outcome: list[str] = []

    def serve() -> None:
        try:
            server.wrap_socket(right, server_side=True).close()
            outcome.append("accepted")
        except ssl.SSLError as error:
            outcome.append(error.reason)
            right.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        user.wrap_socket(left, server_hostname=name).close()
    except (ssl.SSLError, OSError):
        left.close()
    thread.join()
    return outcome[0]


def test_certificates_work_in_tls(made: PkiPaths, tmp_path: Path) -> None:
    for name in ("localhost", "127.0.0.1", "a.openshell.localhost"):
        assert handshake(made, (made.client_cert, made.client_key), name) == "accepted"
    # The server's certificate proves no client, and another authority proves nothing.
    assert handshake(made, (made.server_cert, made.server_key)) != "accepted"
    stranger = Authority().issue_client("openshell-client", "openshell-user")
    files = tmp_path / "stranger.crt", tmp_path / "stranger.key"
    files[0].write_bytes(stranger.certificate)
    files[1].write_bytes(stranger.key)
    assert handshake(made, files) != "accepted"
