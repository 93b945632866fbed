"""Provider profiles that tests of the gateway share, as values."""

from openshell.policy.model import Binary, Endpoint
from openshell.providers.profile.model import (
    ProfileCredential,
    ProviderProfile,
    Refresh,
    Strategy,
    TokenGrant,
)


def endpoint(host="api.acme.test", **fields):
    """An inspected endpoint that lets everything through."""
    return Endpoint(
        **{
            "host": host,
            "ports": (443,),
            "protocol": "rest",
            "access": "full",
            "enforcement": "enforce",
            **fields,
        }
    )


def blind(host="api.acme.test", **fields):
    """An endpoint that nothing inspects."""
    return Endpoint(host=host, ports=(443,), **fields)


def credential(env="ACME_KEY", **fields):
    return ProfileCredential(**{"name": env.lower(), "env_vars": (env,), **fields})


def granted(name="grant", **fields):
    """A credential that the supervisor fetches."""
    return ProfileCredential(
        name=name,
        auth_style="bearer",
        header_name="authorization",
        token_grant=TokenGrant(token_endpoint="https://login.acme.test/token", **fields),
    )


def refreshed(env="ACME_TOKEN", *, required=True):
    """A credential that the gateway mints."""
    refresh = Refresh(strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS, token_url="https://t.acme.test")
    return credential(env, required=required, refresh=refresh)


def profile(profile_id="acme", *, endpoints=None, credentials=None, **fields):
    return ProviderProfile(
        **{
            "id": profile_id,
            "display_name": profile_id,
            "credentials": (credential(),) if credentials is None else tuple(credentials),
            "endpoints": (endpoint(),) if endpoints is None else tuple(endpoints),
            "binaries": (Binary("/usr/bin/curl"),),
            **fields,
        }
    )
