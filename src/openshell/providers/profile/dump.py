"""A profile back to YAML and JSON, in the key names and order that people write.

Empty optional values are left out, the ones that a reader looks for are always there, and what a
document means survives: read, dump and read again give the same profile. Callers: `profile export`,
lists in JSON, differences between two profiles.
"""

from __future__ import annotations

import json
from typing import Literal, TypeAlias

from openshell.policy.dump import dump_yaml, inspection_of, only_set
from openshell.policy.model import Binary, Endpoint, JsonValue, L7Rule, Matcher
from openshell.providers.profile.model import (
    AudienceOverride,
    ProfileCredential,
    ProviderProfile,
    Refresh,
    Strategy,
    TokenGrant,
)

__all__ = ["dump_profile", "profile_to_json"]

_Json: TypeAlias = dict[str, JsonValue]


def dump_profile(profile: ProviderProfile, format: Literal["yaml", "json"]) -> str:  # noqa: A002 (the word of `-o`)
    """One document, ending with a newline."""
    document = profile_to_json(profile)
    if format == "yaml":
        return dump_yaml(document)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def profile_to_json(profile: ProviderProfile) -> _Json:
    """Plain dicts, tuples and scalars of the same shape as the YAML."""
    out: _Json = {"id": profile.id}
    out.update(
        only_set(
            resource_version=profile.resource_version,
            annotations=dict(sorted(profile.annotations.items())),
        )
    )
    out.update(
        display_name=profile.display_name,
        description=profile.description,
        category=profile.category.name.lower(),
        credentials=tuple(_credential(item) for item in profile.credentials),
        endpoints=tuple(_endpoint(item) for item in profile.endpoints),
        binaries=tuple(_binary(item) for item in profile.binaries),
        inference_capable=profile.inference_capable,
    )
    if profile.discovery is not None:
        out["discovery"] = only_set(credentials=profile.discovery.credentials)
    if profile.client_certificate is not None:
        out["client_certificate"] = {
            "certificate": profile.client_certificate.certificate,
            "private_key": profile.client_certificate.private_key,
        }
    out.update(only_set(source=profile.source, scope=profile.scope))
    return out


def _binary(binary: Binary) -> JsonValue:
    if binary.advisor_proposed:
        return {"path": binary.path, "harness": True}
    return binary.path


def _credential(credential: ProfileCredential) -> _Json:
    out: _Json = {
        "name": credential.name,
        "description": credential.description,
        "env_vars": credential.env_vars,
        "required": credential.required,
        "auth_style": credential.auth_style,
        "header_name": credential.header_name,
        "query_param": credential.query_param,
        **only_set(path_template=credential.path_template),
    }
    if credential.refresh is not None:
        out["refresh"] = _refresh(credential.refresh)
    if credential.token_grant is not None:
        out["token_grant"] = _grant(credential.token_grant)
    return out


def _refresh(refresh: Refresh) -> _Json:
    strategy = "" if refresh.strategy is Strategy.UNSPECIFIED else refresh.strategy.name.lower()
    return {
        "strategy": strategy,
        **only_set(
            token_url=refresh.token_url,
            scopes=refresh.scopes,
            refresh_before_seconds=refresh.refresh_before_seconds,
            max_lifetime_seconds=refresh.max_lifetime_seconds,
            material=tuple(
                {
                    "name": item.name,
                    **only_set(description=item.description),
                    "required": item.required,
                    "secret": item.secret,
                }
                for item in refresh.material
            ),
            additional_outputs=tuple(
                {"output": item.output, "credential": item.credential}
                for item in refresh.additional_outputs
            ),
        ),
    }


def _grant(grant: TokenGrant) -> _Json:
    return {
        "token_endpoint": grant.token_endpoint,
        **only_set(
            audience=grant.audience,
            jwt_svid_audience=grant.jwt_svid_audience,
            client_assertion_type=grant.client_assertion_type,
            scopes=grant.scopes,
            cache_ttl_seconds=grant.cache_ttl_seconds,
            audience_overrides=tuple(_override(item) for item in grant.audience_overrides),
        ),
    }


def _override(override: AudienceOverride) -> _Json:
    return {
        **only_set(host=override.host, port=override.port, path=override.path),
        "audience": override.audience,
        **only_set(scopes=override.scopes),
    }


def _endpoint(endpoint: Endpoint) -> _Json:
    one_port = endpoint.ports[0] if len(endpoint.ports) == 1 and endpoint.ports[0] else 0
    out: _Json = {
        "host": endpoint.host,
        **only_set(
            port=one_port,
            ports=() if one_port else endpoint.ports,
            path=endpoint.path,
            protocol=endpoint.protocol,
            tls=endpoint.tls,
            access=endpoint.access,
            enforcement=endpoint.enforcement,
        ),
        **inspection_of(endpoint, _rule),
        **only_set(
            json_rpc_max_body_bytes=endpoint.json_rpc_max_body_bytes,
        ),
    }
    if endpoint.mcp is not None:
        options = {
            "strict_tool_names": endpoint.mcp.strict_tool_names,
            "allow_all_known_mcp_methods": endpoint.mcp.allow_all_known_mcp_methods,
        }
        out["mcp"] = {key: value for key, value in options.items() if value is not None}
    out.update(
        only_set(
            credential_signing=endpoint.credential_signing,
            signing_service=endpoint.signing_service,
            signing_region=endpoint.signing_region,
        )
    )
    return out


def _rule(rule: L7Rule) -> _Json:
    return only_set(
        method=rule.method,
        path=rule.path,
        command=rule.command,
        query={key: _matcher(value) for key, value in sorted(rule.query.items())},
        operation_type=rule.operation_type,
        operation_name=rule.operation_name,
        fields=rule.fields,
        params={key: _matcher(value) for key, value in sorted(rule.params.items())},
    )


def _matcher(matcher: Matcher) -> JsonValue:
    if not matcher.any_of:
        return matcher.glob
    return {**only_set(glob=matcher.glob), "any": matcher.any_of}
