"""The program `openshell-gateway`: arguments, logging, signals, exit codes.

0 after SIGINT or SIGTERM (sandboxes run on) and after SIGUSR1 (sandboxes are stopped first), 1 with
one sentence on stderr when it cannot start or not stop cleanly, 2 for a usage error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from openshell.drivers.base import DriverError
from openshell.gateway import embedded
from openshell.gateway.app import Gateway, World
from openshell.gateway.auth.authorization import RulesIncomplete
from openshell.gateway.config import ConfigError, Settings, load_settings
from openshell.gateway.credentials import KeyFileError
from openshell.gateway.listener import ListenError
from openshell.gateway.pki import (
    PkiError,
    PkiPaths,
    ensure_pki,
    generate_bundle,
    install_client_bundle,
)
from openshell.gateway.store import StoreError
from openshell.sdk.errors import SandboxError
from openshell.sdk.registry import DEFAULT_GATEWAY_NAME, Registry

__all__ = ["main"]

_LEVELS: Mapping[str, int] = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_START_ERRORS = (
    ConfigError,
    DriverError,
    KeyFileError,
    ListenError,
    PkiError,
    RulesIncomplete,
    StoreError,
    OSError,
)

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["generate-certs"]:
        return _generate_certs(given[1:], os.environ)
    if given == ["--version"]:
        sys.stdout.write(f"openshell-gateway {_version()}\n")
        return 0
    try:
        settings = load_settings(given, os.environ)
    except ConfigError as error:
        return _fail(error)
    _configure_logging(settings.log_level)
    # A core file would hold the keys and whatever credential is open at that moment.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings))


def _version() -> str:
    try:
        return importlib.metadata.version("openshell-py")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0"


def _fail(error: Exception) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"cannot use {error.filename or 'a file'}: {error.strerror}"
    sys.stderr.write(f"openshell-gateway: {text}\n")
    return 1


class _Tame(logging.Formatter):
    """Messages quote names that clients chose: none may look like a line of ours, or drive a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base class's name
        shown = (
            char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}"
            for char in record.message
        )
        record.message = "".join(shown).replace("\n", "\n  ")
        return super().formatMessage(record)


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Tame("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=_LEVELS[level], handlers=[handler])
    # Their debug lines come by the hundred per call and say nothing about ours.
    for foreign in ("grpc", "asyncio"):
        logging.getLogger(foreign).setLevel(max(logging.WARNING, _LEVELS[level]))


async def _serve(settings: Settings) -> int:
    """From start to signal. Whatever was opened is closed."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        loop.add_signal_handler(number, _stop, stop, number)
    gateway = Gateway(settings, World(environ=dict(os.environ), version=_version()))
    try:
        await _open(gateway, settings)
        number = await stop
        _log.info("ending on %s", number.name)
        failures = await gateway.stop_sandboxes() if number == signal.SIGUSR1 else []
        for failure in failures:
            _log.error("not stopped: %s", failure)
        return 1 if failures else 0
    except _START_ERRORS as error:
        return _fail(error)
    finally:
        await gateway.close()


def _stop(stop: asyncio.Future[signal.Signals], number: signal.Signals) -> None:
    if not stop.done():
        stop.set_result(number)


async def _open(gateway: Gateway, settings: Settings) -> None:
    if not settings.embedded.enabled:
        await gateway.open(settings.listen.port)
        if settings.embedded.ready_fd is not None:
            embedded.announce(settings, gateway.endpoint)
        return
    port = settings.listen.port if settings.port_given else embedded.read_port(settings)
    await gateway.open(port)
    embedded.register(settings, gateway.endpoint, gateway.port)
    embedded.announce(settings, gateway.endpoint)


def _generate_certs(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="openshell-gateway generate-certs",
        description="Make the certificates and token keys of a gateway.",
        allow_abbrev=False,
    )
    parser.add_argument("--output-dir", metavar="DIR", help="directory to fill")
    parser.add_argument("--server-san", action="append", default=[], metavar="NAME")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    for flag in ("namespace", "server-secret-name", "client-secret-name", "jwt-secret-name"):
        parser.add_argument(f"--{flag}", help=argparse.SUPPRESS)
    parser.add_argument("--jwt-only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(list(arguments))
    for name in (
        "namespace",
        "server_secret_name",
        "client_secret_name",
        "jwt_secret_name",
        "jwt_only",
    ):
        if getattr(given, name):
            parser.error(f"--{name.replace('_', '-')} (Kubernetes) is not supported yet")
    if not given.dry_run and not given.output_dir:
        parser.error("--output-dir is required")
    try:
        if given.dry_run:
            for name, content in generate_bundle(given.server_san).items():
                sys.stdout.write(f"# {name}\n{content.decode('ascii')}")
            return 0
        report = ensure_pki(Path(given.output_dir), given.server_san)
    except (PkiError, OSError) as error:
        return _fail(error)
    _install_for_user(report.paths, environ)
    sys.stdout.write(f"certificates are in {given.output_dir}\n")
    return 0


def _install_for_user(paths: PkiPaths, environ: Mapping[str, str]) -> None:
    """A convenience for a gateway on the user's own machine; the set is complete without it."""
    with contextlib.suppress(SandboxError):
        registry = Registry.from_environment(environ)
        try:
            install_client_bundle(paths, registry.mtls_directory(DEFAULT_GATEWAY_NAME))
        except PkiError as error:
            sys.stderr.write(f"warning: {error}\n")
