"""Values on the command line: `KEY=VALUE`, `KEY` from the environment, and points in time.

Pure over the environment that is handed in. No refusal shows a value: it may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from openshell.cli.failures import CliError

__all__ = [
    "epoch_ms",
    "read_credentials",
    "read_expiries",
    "read_material",
    "read_pairs",
    "values_on_command_line",
]


def read_credentials(items: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """`KEY=VALUE`, or `KEY` for the value of the variable of that name.

    Raises:
        CliError: no name, or the variable is not set.
    """
    values: dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        key = key.strip()
        if not key:
            raise CliError("--credential needs a name: write KEY or KEY=VALUE")
        values[key] = value if separator else _variable(f"--credential {key}", key, environ)
    return values


def values_on_command_line(items: Iterable[str]) -> list[str]:
    """Keys whose values stand in the command line itself, where other processes can read them."""
    return [key for key, _, value in (item.partition("=") for item in items) if value]


def _variable(option: str, name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name, "")
    if not value.strip():
        raise CliError(f"{option}: the variable {name} is not set here")
    return value


def read_pairs(items: Iterable[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` items, the last of a key counting.

    Raises:
        CliError: an item has another form.
    """
    values: dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            raise CliError(f"{option} '{key.strip()}' is not of the form KEY=VALUE")
        values[key.strip()] = value
    return values


def read_expiries(items: Iterable[str], now: datetime) -> dict[str, int]:
    """`KEY=TIME` items in epoch milliseconds; 0 clears.

    Raises:
        CliError: an item has another form or is no time.
    """
    pairs = read_pairs(items, "--credential-expires-at")
    return {
        key: epoch_ms(text, f"--credential-expires-at {key}", now) for key, text in pairs.items()
    }


def epoch_ms(text: str, option: str, now: datetime) -> int:
    """A point in time as epoch milliseconds: a number, or RFC 3339.

    Raises:
        CliError: it is neither, or negative.
    """
    text = text.strip()
    if text.removeprefix("-").isascii() and text.removeprefix("-").isdigit():
        if text.startswith("-"):
            raise CliError(f"{option}: a time cannot be negative; 0 clears it")
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        example = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise CliError(
            f"{option}: '{text}' is not a time; write milliseconds since 1970, or RFC 3339 "
            f"with a zone like {example}"
        )
    return int(moment.timestamp() * 1000)


def read_material(
    material: Iterable[str],
    from_environment: Iterable[str],
    secret_keys: Iterable[str],
    environ: Mapping[str, str],
) -> tuple[dict[str, str], list[str]]:
    """The inputs of a refresh strategy, and which of them are secret beyond the known ones.

    Args:
        material: `K=V` items.
        from_environment: `K` or `K=VARIABLE` items; each is secret.
        secret_keys: Keys of `material` to seal as well.
        environ: Where variables are looked up.

    Raises:
        CliError: a key comes twice or is not there, a variable is not set.
    """
    values = read_pairs(material, "--material")
    secret: list[str] = []
    for item in from_environment:
        key, separator, variable = item.partition("=")
        key, variable = key.strip(), variable.strip()
        if not key or (separator and not variable):
            raise CliError("--secret-material-env needs a name: write KEY or KEY=VARIABLE")
        if key in values:
            raise CliError(f"--secret-material-env {key}: the same key is given twice")
        values[key] = _variable(f"--secret-material-env {key}", variable or key, environ)
        secret.append(key)
    for key in secret_keys:
        if key not in values:
            raise CliError(f"--secret-material-key {key}: there is no material of that name")
        if key not in secret:
            secret.append(key)
    return values, secret
