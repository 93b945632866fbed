"""Provider profiles to messages and back. Endpoints are those of `openshell.codec.policy`.

Nothing is judged here and nothing raises: an enum number that nobody knows becomes the one that
means nothing. What only a sandbox policy or the gateway may set on an endpoint (bindings, marks) is
dropped on reading, so that no payload can smuggle it in; `binding_set` says where it was.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from openshell._proto import openshell_pb2 as pb
from openshell._proto import sandbox_pb2
from openshell.codec.policy import endpoint_from_proto, endpoint_to_proto
from openshell.policy.model import Binary, Endpoint
from openshell.providers.profile.model import (
    AudienceOverride,
    Category,
    ClientCertificate,
    Discovery,
    Material,
    ProfileCredential,
    ProviderProfile,
    Refresh,
    RefreshOutput,
    Strategy,
    TokenGrant,
)

__all__ = ["binding_set", "profile_from_proto", "profile_to_proto"]


def binding_set(message: pb.ProviderProfile) -> tuple[int, ...]:
    """Indexes of the endpoints that carry a `credential_binding`, which profiles may not have."""
    return tuple(
        index
        for index, endpoint in enumerate(message.endpoints)
        if endpoint.HasField("credential_binding")
    )


def profile_to_proto(profile: ProviderProfile) -> pb.ProviderProfile:
    message = pb.ProviderProfile(
        id=profile.id,
        display_name=profile.display_name,
        description=profile.description,
        category=pb.ProviderProfileCategory.ValueType(profile.category.value),
        credentials=[_credential_to_proto(item) for item in profile.credentials],
        endpoints=[endpoint_to_proto(item) for item in profile.endpoints],
        binaries=[
            sandbox_pb2.NetworkBinary(path=item.path, harness=item.advisor_proposed)
            for item in profile.binaries
        ],
        inference_capable=profile.inference_capable,
        resource_version=profile.resource_version,
        annotations=dict(sorted(profile.annotations.items())),
        source=profile.source,
        scope=profile.scope,
    )
    if profile.discovery is not None:
        message.discovery.SetInParent()
        message.discovery.credentials.extend(profile.discovery.credentials)
    if profile.client_certificate is not None:
        message.client_certificate.SetInParent()
        message.client_certificate.certificate = profile.client_certificate.certificate
        message.client_certificate.private_key = profile.client_certificate.private_key
    return message


def profile_from_proto(message: pb.ProviderProfile) -> ProviderProfile:
    discovery = None
    if message.HasField("discovery"):
        discovery = Discovery(tuple(message.discovery.credentials))
    shown = None
    if message.HasField("client_certificate"):
        shown = ClientCertificate(
            message.client_certificate.certificate, message.client_certificate.private_key
        )
    return ProviderProfile(
        id=message.id,
        display_name=message.display_name,
        description=message.description,
        category=_category(message.category),
        credentials=tuple(_credential_from_proto(item) for item in message.credentials),
        endpoints=tuple(_without_marks(endpoint_from_proto(item)) for item in message.endpoints),
        binaries=tuple(Binary(item.path, item.harness) for item in message.binaries),
        inference_capable=message.inference_capable,
        discovery=discovery,
        client_certificate=shown,
        annotations=MappingProxyType(dict(sorted(message.annotations.items()))),
        resource_version=message.resource_version,
        source=message.source,
        scope=message.scope,
    )


def _category(number: int) -> Category:
    try:
        return Category(number)
    except ValueError:
        return Category.OTHER


def _strategy(number: int) -> Strategy:
    try:
        return Strategy(number)
    except ValueError:
        return Strategy.UNSPECIFIED


def _without_marks(endpoint: Endpoint) -> Endpoint:
    return replace(
        endpoint, credential_binding=None, provider_credentialed=False, advisor_proposed=False
    )


def _credential_to_proto(credential: ProfileCredential) -> pb.ProviderProfileCredential:
    message = pb.ProviderProfileCredential(
        name=credential.name,
        description=credential.description,
        env_vars=credential.env_vars,
        required=credential.required,
        auth_style=credential.auth_style,
        header_name=credential.header_name,
        query_param=credential.query_param,
        path_template=credential.path_template,
    )
    if credential.refresh is not None:
        message.refresh.CopyFrom(_refresh_to_proto(credential.refresh))
    if credential.token_grant is not None:
        message.token_grant.CopyFrom(_grant_to_proto(credential.token_grant))
    return message


def _credential_from_proto(message: pb.ProviderProfileCredential) -> ProfileCredential:
    return ProfileCredential(
        name=message.name,
        description=message.description,
        env_vars=tuple(message.env_vars),
        required=message.required,
        auth_style=message.auth_style,
        header_name=message.header_name,
        query_param=message.query_param,
        path_template=message.path_template,
        refresh=_refresh_from_proto(message.refresh) if message.HasField("refresh") else None,
        token_grant=_grant_from_proto(message.token_grant)
        if message.HasField("token_grant")
        else None,
    )


def _refresh_to_proto(refresh: Refresh) -> pb.ProviderCredentialRefresh:
    return pb.ProviderCredentialRefresh(
        strategy=pb.ProviderCredentialRefreshStrategy.ValueType(refresh.strategy.value),
        token_url=refresh.token_url,
        scopes=refresh.scopes,
        refresh_before_seconds=refresh.refresh_before_seconds,
        max_lifetime_seconds=refresh.max_lifetime_seconds,
        material=[
            pb.ProviderCredentialRefreshMaterial(
                name=item.name,
                description=item.description,
                required=item.required,
                secret=item.secret,
            )
            for item in refresh.material
        ],
        additional_outputs=[
            pb.ProviderCredentialRefreshOutput(output=item.output, credential=item.credential)
            for item in refresh.additional_outputs
        ],
    )


def _refresh_from_proto(message: pb.ProviderCredentialRefresh) -> Refresh:
    return Refresh(
        strategy=_strategy(message.strategy),
        token_url=message.token_url,
        scopes=tuple(message.scopes),
        refresh_before_seconds=message.refresh_before_seconds,
        max_lifetime_seconds=message.max_lifetime_seconds,
        material=tuple(
            Material(item.name, item.description, item.required, item.secret)
            for item in message.material
        ),
        additional_outputs=tuple(
            RefreshOutput(item.output, item.credential) for item in message.additional_outputs
        ),
    )


def _grant_to_proto(grant: TokenGrant) -> pb.ProviderCredentialTokenGrant:
    return pb.ProviderCredentialTokenGrant(
        token_endpoint=grant.token_endpoint,
        audience=grant.audience,
        jwt_svid_audience=grant.jwt_svid_audience,
        client_assertion_type=grant.client_assertion_type,
        scopes=grant.scopes,
        cache_ttl_seconds=grant.cache_ttl_seconds,
        audience_overrides=[
            pb.ProviderCredentialTokenGrantAudienceOverride(
                host=item.host,
                port=item.port,
                path=item.path,
                audience=item.audience,
                scopes=item.scopes,
            )
            for item in grant.audience_overrides
        ],
    )


def _grant_from_proto(message: pb.ProviderCredentialTokenGrant) -> TokenGrant:
    return TokenGrant(
        token_endpoint=message.token_endpoint,
        audience=message.audience,
        jwt_svid_audience=message.jwt_svid_audience,
        client_assertion_type=message.client_assertion_type,
        scopes=tuple(message.scopes),
        cache_ttl_seconds=message.cache_ttl_seconds,
        audience_overrides=tuple(
            AudienceOverride(item.host, item.port, item.path, item.audience, tuple(item.scopes))
            for item in message.audience_overrides
        ),
    )
