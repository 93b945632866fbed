"""Token grants and plain settings of a provider environment, on their way into a generation."""

import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.egress.credentials import (
    CredentialSet,
    EndpointScope,
    Unresolved,
    parse_placeholder,
)
from openshell.egress.generation import Generation
from openshell.policy.compile import quarantine
from openshell.supervisor.candidate import Candidate, build_generation
from openshell.supervisor.dynamic import read_grants
from openshell.supervisor.environment import SHOWN_KEYS, ProgramRole, child_environment

FIRST = Generation(4, quarantine("nothing yet", 4), CredentialSet())
CONFIG = sandbox_pb2.GetSandboxConfigResponse(version=1)
KEY = "api.example\t443\t/v1/**\tidp:c"
URL = "https://idp.example/token"
HANDLE = "ab" * 32
HOME = EndpointScope("api.example", 443, "/v1/x")


def credential(url=URL, style="", header="", **grant):
    made = openshell_pb2.ProviderProfileCredential(name="c", auth_style=style, header_name=header)
    made.token_grant.token_endpoint = url
    for name, value in grant.items():
        setattr(made.token_grant, name, value)
    return made


def environment(revision=9, *, grants=(), settings=(), handle="", **values):
    made = openshell_pb2.GetSandboxProviderEnvironmentResponse(provider_env_revision=revision)
    for key, value in values.items():
        made.environment[key] = value
        binding = made.static_credential_bindings[key]
        binding.credential_identity = f"refresh:{handle}" if handle else f"p:{key}"
        binding.workload_credential_handle = handle
        binding.endpoints.add(host="api.example", port=443)
    for key, value in dict(settings).items():
        made.environment[key] = value
        made.non_secret_environment_keys.append(key)
    for key, sent in dict(grants).items():
        made.dynamic_credentials[key].CopyFrom(sent)
    return made


def take(sent, current=FIRST, tokens=None):
    return build_generation(Candidate(CONFIG, sent), current, None, tokens)


class Tokens:
    def ready(self, grant):
        return f"token for {grant.owner}"


def test_grants_become_part_of_the_generation():
    tokens = Tokens()
    outcome = take(environment(grants={KEY: credential(audience="api")}), tokens=tokens)
    assert outcome.credential_error == ""
    grants = outcome.generation.credentials.grants
    grant = grants.choose(HOME)
    assert grants.tokens is tokens
    assert (grant.owner, grant.token_endpoint, grant.audience) == ("idp:c", URL, "api")
    assert (grant.header, grant.is_bearer, grant.fault) == ("Authorization", True, "")
    assert grants.choose(EndpointScope("api.example", 443, "/v2")) is None
    assert outcome.generation.credentials.child_environment() == {}


@pytest.mark.parametrize(
    ("url", "wanted", "audience"),
    [
        (URL, "", URL),
        (URL, "mine", "mine"),
        ("https://idp.example/realms/r/protocol/token", "", "https://idp.example/realms/r"),
        ("https://idp.example/auth/realms/r/token", "", "https://idp.example/auth/realms/r"),
        ("https://idp.example/realms/r", "", "https://idp.example/realms/r"),
        ("https://idp.example/realms//x", "", "https://idp.example/realms//x"),
    ],
)
def test_whom_the_statement_of_identity_is_for(url, wanted, audience):
    grants, _ = read_grants({KEY: credential(url, jwt_svid_audience=wanted)}, None)
    assert grants.choose(HOME).svid_audience == audience


def test_the_kind_of_assertion():
    usual, _ = read_grants({KEY: credential()}, None)
    other, _ = read_grants({KEY: credential(client_assertion_type="urn:x")}, None)
    assert usual.choose(HOME).assertion_type.endswith(":client-assertion-type:jwt-bearer")
    assert other.choose(HOME).assertion_type == "urn:x"


BROKEN = {
    "clear text": credential("http://idp.example/token"),
    "no url": credential(""),
    "query": credential(style="query"),
    "no header": credential(style="header"),
    "framing header": credential(header="Content-Length"),
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN.keys())
def test_a_grant_that_cannot_be_used_lets_no_lesser_one_in(sent):
    lesser = KEY.replace("/v1/**", "")
    outcome = take(environment(grants={KEY: sent, lesser: credential()}, TOKEN="x"))
    assert "idp:c" in outcome.credential_error
    credentials = outcome.generation.credentials
    assert credentials.grants.choose(HOME).fault
    assert not credentials.grants.choose(EndpointScope("api.example", 443, "/v2")).fault
    assert set(credentials.child_environment()) == {"TOKEN"}


def test_a_key_that_names_no_endpoint_is_said():
    outcome = take(environment(grants={"nonsense": credential()}))
    assert outcome.credential_error
    assert not outcome.generation.credentials.grants


def test_a_failed_fetch_keeps_grants_and_revokes_values():
    good = take(environment(grants={KEY: credential()}, TOKEN="secret"))
    lost = take(None, good.generation)
    assert lost.credential_error
    credentials = lost.generation.credentials
    assert credentials.child_environment() == {}
    assert credentials.grants == good.generation.credentials.grants
    again = take(environment(TOKEN="secret"), lost.generation)
    assert not again.generation.credentials.grants


def test_a_rejected_snapshot_revokes_values_and_brings_its_grants():
    good = take(environment(grants={KEY: credential()}, TOKEN="secret"))
    broken = environment(10, grants={KEY: credential(audience="new")}, TOKEN="secret")
    broken.environment["UNCLASSIFIED"] = "x"
    outcome = take(broken, good.generation)
    assert "contradicts itself" in outcome.credential_error
    assert outcome.generation.credentials.child_environment() == {}
    assert outcome.generation.credentials.grants.choose(HOME).audience == "new"


def resolve(outcome, placeholder):
    return outcome.generation.credentials.resolve(
        parse_placeholder(placeholder.encode()), HOME, now_ms=0
    )


def test_a_refreshed_value_reaches_programs_that_keep_their_placeholder():
    outcome = take(environment(1, handle=HANDLE, TOKEN="first"))
    placeholder = outcome.generation.credentials.child_environment()["TOKEN"]
    assert placeholder == f"openshell:resolve:env:s{HANDLE}_TOKEN"
    for revision in range(2, 14):
        outcome = take(
            environment(revision, handle=HANDLE, TOKEN=f"v{revision}"), outcome.generation
        )
        assert resolve(outcome, placeholder) == f"v{revision}"
        assert outcome.generation.credentials.child_environment()["TOKEN"] == placeholder
    # Configured anew: the old handle stands for nothing any more.
    outcome = take(environment(14, handle="cd" * 32, TOKEN="new"), outcome.generation)
    assert resolve(outcome, placeholder) is Unresolved.UNAVAILABLE
    # Detached: known, and wrong everywhere.
    outcome = take(environment(15), outcome.generation)
    assert resolve(outcome, placeholder) is Unresolved.MISMATCH


SETTINGS = {"GCP_PROJECT_ID": "p-1", "GOOSE_PROVIDER": "gcp_vertex_ai", "OTHER": "o"}


def test_settings_that_tools_read_themselves_stand_in_the_environment():
    outcome = take(environment(settings=SETTINGS, TOKEN="secret"))
    inside = outcome.generation.credentials.child_environment()
    assert inside == {
        "GCP_PROJECT_ID": "p-1",
        "GOOSE_PROVIDER": "gcp_vertex_ai",
        "OTHER": "openshell:resolve:env:v9_OTHER",
        "TOKEN": "openshell:resolve:env:v9_TOKEN",
    }


def test_a_secret_of_such_a_name_stays_a_secret():
    inside = take(environment(GCP_PROJECT_ID="secret")).generation.credentials.child_environment()
    assert inside == {"GCP_PROJECT_ID": "openshell:resolve:env:v9_GCP_PROJECT_ID"}


@pytest.mark.parametrize("role", ProgramRole)
def test_without_a_metadata_server_nobody_is_sent_to_one(role):
    names = ("GCE_METADATA_HOST", "GCE_METADATA_IP", "METADATA_SERVER_DETECTION")
    assert SHOWN_KEYS.issuperset(names)
    provided = dict.fromkeys(names, "gcp.metadata.openshell.internal") | {"GCP_PROJECT_ID": "p"}
    made = child_environment(role=role, user_env={}, provider_env=provided, terminal=None)
    assert made["GCP_PROJECT_ID"] == "p"
    assert not made.keys() & set(names)
    secret = {"GCE_METADATA_HOST": "openshell:resolve:env:v1_GCE_METADATA_HOST"}
    made = child_environment(role=role, user_env={}, provider_env=secret, terminal=None)
    assert made["GCE_METADATA_HOST"] == secret["GCE_METADATA_HOST"]


@pytest.mark.parametrize(
    "name",
    [
        "OPENSHELL_PROVIDER_SPIFFE_WORKLOAD_API_SOCKET",
        "OPENSHELL_PROVIDER_SPIFFE_JWT_SVID_FILE",
    ],
)
def test_where_identities_come_from_is_never_told_inside(name):
    provided = {name: "/run/agent.sock", "MINE": "x"}
    made = child_environment(
        role=ProgramRole.EXEC, user_env=provided, provider_env=provided, terminal=None
    )
    assert made["MINE"] == "x"
    assert name not in made
