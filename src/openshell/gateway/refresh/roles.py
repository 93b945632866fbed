"""Assumes an AWS role: three values that only work together, from one call to STS.

botocore (the extra `aws`) is imported when the first role is assumed and runs in a thread. Given
source keys are used alone: environment and files of the gateway's account have no part then.
Without them the gateway's own AWS identity (environment, instance role, web identity) is the source.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import logging
import os
from typing import Any, Final

from openshell.providers.refresh import STS_OUTPUTS, RefreshReason, RefreshRefused
from openshell.providers.refresh_answers import Minted, check_value
from openshell.providers.refresh_requests import RolePlan

__all__ = ["RoleAssumer"]

_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 10
_ATTEMPTS: Final = 2
"""With the limits above a call ends within half a minute, like one to a token endpoint."""

_FIELDS: Final = {"secret_access_key": "SecretAccessKey", "session_token": "SessionToken"}
# Names of botocore's settings, each without a file and without a variable to take it from.
_BLIND: Final[dict[str, tuple[None, None, str | None, None]]] = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}


class RoleAssumer:
    """`endpoint_url` stands in for AWS's own endpoint, for tests; nothing stored can set it."""

    def __init__(self, *, endpoint_url: str | None = None) -> None:
        self._endpoint_url = endpoint_url

    async def assume(
        self, plan: RolePlan, key: str, *, asked_at_ms: int, lifetime_seconds: int
    ) -> Minted:
        """Raises `RefreshRefused`."""
        answer = await asyncio.to_thread(self._call, plan)
        return _read(answer, key, asked_at_ms + lifetime_seconds * 1000)

    def _call(self, plan: RolePlan) -> dict[str, Any]:
        try:
            session_module: Any = importlib.import_module("botocore.session")
            config_module: Any = importlib.import_module("botocore.config")
        except ImportError:
            raise RefreshRefused(
                RefreshReason.PRECONDITION,
                "assuming AWS roles needs botocore; install it for the gateway: "
                "pip install 'openshell-py[aws]'",
            ) from None
        # Its debug lines hold whole answers.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        failure = ""
        try:
            return self._assume(self._client(session_module, config_module, plan), plan)
        except Exception as error:
            failure = _describe(error)
        # Outside of the handler: a chained exception would carry the request.
        raise RefreshRefused(RefreshReason.ISSUER, f"AWS did not grant the role ({failure})")

    def _client(self, session_module: Any, config_module: Any, plan: RolePlan) -> Any:
        source: dict[str, str | None] = {}
        if plan.source is not None:
            source = {
                "aws_access_key_id": plan.source.access_key_id,
                "aws_secret_access_key": plan.source.secret_access_key,
                "aws_session_token": plan.source.session_token or None,
            }
        session = session_module.Session(session_vars=dict(_BLIND) if source else None)
        return session.create_client(
            "sts",
            region_name=plan.region,
            endpoint_url=self._endpoint_url,
            config=config_module.Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=_READ_SECONDS,
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                proxies={},
                ignore_configured_endpoint_urls=True,
            ),
            **source,
        )

    def _assume(self, client: Any, plan: RolePlan) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "RoleArn": plan.role_arn,
            "RoleSessionName": plan.session_name,
            "DurationSeconds": plan.duration_seconds,
        }
        if plan.external_id:
            asked["ExternalId"] = plan.external_id
        try:
            answer: dict[str, Any] = client.assume_role(**asked)
        finally:
            client.close()
        return answer


def _describe(error: Exception) -> str:
    """AWS's own error code where there is one; texts may quote requests."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    if isinstance(code, str) and code.isascii() and code.replace(".", "").isalnum():
        return code[:64]
    return type(error).__name__


def _read(answer: dict[str, Any], key: str, latest_ms: int) -> Minted:
    granted = answer.get("Credentials", {})
    texts = [granted.get(name) for name in ("AccessKeyId", *_FIELDS.values())]
    ends = granted.get("Expiration")
    if not all(isinstance(text, str) for text in texts) or not isinstance(ends, dt.datetime):
        raise RefreshRefused(RefreshReason.ISSUER, "AWS's answer holds no complete credentials")
    values = {key: check_value("access key id", granted["AccessKeyId"])}
    for output, variable in STS_OUTPUTS.items():
        values[variable] = check_value(output, granted[_FIELDS[output]])
    return Minted(values, min(int(ends.timestamp() * 1000), latest_ms))
