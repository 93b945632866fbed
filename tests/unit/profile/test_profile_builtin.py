"""The built-in profiles: what the contract's table says of each, and that each is sound."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import openshell.providers
from openshell.codec.profile import profile_from_proto, profile_to_proto
from openshell.providers.profile.builtin import builtin_profiles, builtin_revision
from openshell.providers.profile.document import dump_profile, local_findings, read_profile
from openshell.providers.profile.lint import batch_findings, lint_profile
from openshell.providers.profile.model import Category, Strategy

DIRECTORY = Path(openshell.providers.__file__).parent / "profiles"
PROFILES = builtin_profiles()
IDS = sorted(PROFILES)

AWS = ("AWS_ACCESS_KEY_ID",), ("AWS_SECRET_ACCESS_KEY",), ("AWS_SESSION_TOKEN",)
CURL = "/usr/bin/curl /usr/local/bin/curl"

# id: name, category, inference, variables, which are required, hosts, binaries, discovered
TABLE = {
    "aws": ("AWS", "other", False, AWS, "111", "", "", ""),
    "aws-bedrock": (
        "AWS Bedrock",
        "inference",
        True,
        (*AWS, ("AWS_REGION", "AWS_DEFAULT_REGION")),
        "0000",
        "",
        "",
        "",
    ),
    "aws-s3": (
        "AWS S3",
        "other",
        False,
        AWS,
        "111",
        (
            "*.s3.amazonaws.com s3.amazonaws.com *.s3.*.amazonaws.com s3.*.amazonaws.com "
            "*.s3.dualstack.*.amazonaws.com s3.dualstack.*.amazonaws.com"
        ),
        (
            "/sandbox/.venv/bin/python /sandbox/.venv/bin/python3 /sandbox/.uv/python/** "
            "/usr/bin/python3 /usr/bin/python3.* /usr/bin/curl /usr/local/bin/aws /bin/bash"
        ),
        "",
    ),
    "claude-code": (
        "Claude Code",
        "agent",
        True,
        (("ANTHROPIC_API_KEY", "CLAUDE_API_KEY"),),
        "1",
        "api.anthropic.com statsig.anthropic.com sentry.io",
        "/usr/bin/claude /usr/local/bin/claude",
        "api_key",
    ),
    "codex": (
        "Codex",
        "agent",
        True,
        tuple(
            (f"CODEX_AUTH_{name}",)
            for name in ("ACCESS_TOKEN", "REFRESH_TOKEN", "ACCOUNT_ID", "ID_TOKEN")
        ),
        "1110",
        "api.openai.com auth.openai.com chatgpt.com ab.chatgpt.com",
        "/usr/bin/codex /usr/local/bin/codex /usr/lib/node_modules/@openai/**",
        "access_token refresh_token account_id id_token",
    ),
    "copilot": (
        "GitHub Copilot",
        "agent",
        False,
        (("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"),),
        "1",
        (
            "api.githubcopilot.com api.individual.githubcopilot.com api.business.githubcopilot.com "
            "api.enterprise.githubcopilot.com copilot-proxy.githubusercontent.com "
            "telemetry.enterprise.githubcopilot.com default.exp-tas.com"
        ),
        "/usr/bin/copilot /usr/lib/node_modules/@github/copilot/node_modules/@github/**/copilot",
        "api_token",
    ),
    "cursor": (
        "Cursor",
        "agent",
        False,
        (),
        "",
        (
            "cursor.blob.core.windows.net api2.cursor.sh repo.cursor.sh download.cursor.sh "
            "cursor.download.prss.microsoft.com"
        ),
        "/usr/bin/curl /usr/bin/wget /sandbox/.cursor-server/**",
        "",
    ),
    "deepinfra": (
        "DeepInfra",
        "inference",
        True,
        (("DEEPINFRA_API_KEY",),),
        "1",
        "api.deepinfra.com",
        CURL,
        "api_key",
    ),
    "github": (
        "GitHub",
        "source_control",
        False,
        (("GITHUB_TOKEN", "GH_TOKEN"),),
        "1",
        "api.github.com api.github.com github.com",
        "/usr/bin/gh /usr/local/bin/gh /usr/bin/git /usr/local/bin/git",
        "api_token",
    ),
    "google-cloud": (
        "Google Cloud (GCP APIs)",
        "other",
        False,
        (("GCP_SA_ACCESS_TOKEN",), ("GCP_ADC_ACCESS_TOKEN",)),
        "00",
        "",
        "",
        "service_account_token adc_token",
    ),
    "google-vertex-ai": (
        "Google Vertex AI",
        "inference",
        True,
        (
            ("GOOGLE_SERVICE_ACCOUNT_KEY",),
            ("GOOGLE_VERTEX_AI_SERVICE_ACCOUNT_TOKEN", "VERTEX_AI_SERVICE_ACCOUNT_TOKEN"),
            ("GOOGLE_VERTEX_AI_TOKEN", "VERTEX_AI_TOKEN"),
        ),
        "000",
        (
            "*-aiplatform.googleapis.com aiplatform.googleapis.com "
            "aiplatform.us.rep.googleapis.com aiplatform.eu.rep.googleapis.com"
        ),
        "",
        "service_account_token gcloud_adc_token",
    ),
    "nvidia": (
        "NVIDIA",
        "inference",
        True,
        (("NVIDIA_API_KEY",),),
        "1",
        "integrate.api.nvidia.com",
        CURL,
        "api_key",
    ),
    "pypi": (
        "PyPI",
        "data",
        False,
        (),
        "",
        (
            "pypi.org files.pythonhosted.org github.com objects.githubusercontent.com "
            "api.github.com downloads.python.org"
        ),
        (
            "/sandbox/.venv/bin/python /sandbox/.venv/bin/python3 /sandbox/.venv/bin/pip "
            "/app/.venv/bin/python /app/.venv/bin/python3 /app/.venv/bin/pip "
            "/usr/local/bin/uv /sandbox/.uv/python/**"
        ),
        "",
    ),
}


def test_these_are_all():
    assert list(PROFILES) == IDS == sorted(TABLE)
    assert {path.stem for path in DIRECTORY.glob("*.yaml")} == set(IDS)
    assert {path.suffix for path in DIRECTORY.iterdir()} == {".yaml"}


@pytest.mark.parametrize("profile_id", IDS)
def test_the_table(profile_id):
    name, category, infers, variables, required, hosts, binaries, discovered = TABLE[profile_id]
    profile = PROFILES[profile_id]
    assert profile.display_name == name
    assert profile.category is Category[category.upper()]
    assert profile.inference_capable is infers
    assert tuple(c.env_vars for c in profile.credentials) == variables
    assert "".join(str(int(c.required)) for c in profile.credentials) == required
    assert [e.host for e in profile.endpoints] == hosts.split()
    assert all(e.ports == (443,) for e in profile.endpoints)
    assert [b.path for b in profile.binaries] == binaries.split()
    found = profile.discovery.credentials if profile.discovery is not None else ()
    assert list(found) == discovered.split()
    assert profile.description
    assert (profile.resource_version, profile.source, profile.scope) == (0, "", "")


@pytest.mark.parametrize("profile_id", IDS)
def test_each_is_sound(profile_id):
    assert [f for f in lint_profile(PROFILES[profile_id]) if f.is_error] == []
    text = (DIRECTORY / f"{profile_id}.yaml").read_text()
    assert local_findings(text, source="f", format="yaml") == ()


def test_together_they_are_sound():
    assert not any(f.is_error for found in batch_findings(list(PROFILES.values())) for f in found)


@pytest.mark.parametrize("profile_id", IDS)
def test_each_survives_export_and_messages(profile_id):
    profile = PROFILES[profile_id]
    assert profile_from_proto(profile_to_proto(profile)) == profile
    for form in ("yaml", "json"):
        assert read_profile(dump_profile(profile, form), source="f", format=form) == profile


SENT = {
    "claude-code": [("header", "x-api-key")],
    "copilot": [("bearer", "authorization")],
    "deepinfra": [("bearer", "authorization")],
    "github": [("bearer", "authorization")],
    "nvidia": [("bearer", "authorization")],
    "google-cloud": [("bearer", "authorization")] * 2,
    "google-vertex-ai": [("", ""), ("bearer", "authorization"), ("bearer", "authorization")],
}


@pytest.mark.parametrize("profile_id", IDS)
def test_how_credentials_are_sent(profile_id):
    credentials = PROFILES[profile_id].credentials
    wanted = SENT.get(profile_id, [("", "")] * len(credentials))
    assert [(c.auth_style, c.header_name) for c in credentials] == wanted


L4 = {
    "cursor": 5,
    "pypi": 6,
    "copilot": 2,
}


@pytest.mark.parametrize("profile_id", [i for i in IDS if i != "github"])
def test_what_is_inspected(profile_id):
    endpoints = PROFILES[profile_id].endpoints
    blind = L4.get(profile_id, 0)
    inspected, rest = endpoints[: len(endpoints) - blind], endpoints[len(endpoints) - blind :]
    assert {(e.protocol, e.access, e.enforcement) for e in inspected} <= {
        ("rest", "read-write", "enforce")
    }
    assert {(e.protocol, e.access, e.enforcement) for e in rest} <= {("", "", "")}
    assert {e.allow_uninspected_credentials for e in rest} <= {profile_id == "copilot"}
    assert not any(e.allow_uninspected_credentials for e in inspected)


def test_github_reads_and_clones():
    api, graphql, git = PROFILES["github"].endpoints
    assert (api.protocol, api.access, api.enforcement) == ("rest", "read-only", "enforce")
    assert (graphql.path, graphql.protocol, graphql.access, graphql.enforcement) == (
        "/graphql",
        "graphql",
        "read-only",
        "enforce",
    )
    assert (git.protocol, git.access, git.enforcement) == ("rest", "", "enforce")
    assert [(rule.method, rule.path) for rule in git.rules] == [
        ("GET", "**"),
        ("HEAD", "**"),
        ("OPTIONS", "**"),
        ("POST", "/**/git-upload-pack"),
    ]


def test_s3_is_signed():
    endpoints = PROFILES["aws-s3"].endpoints
    assert {(e.tls, e.credential_signing, e.signing_service) for e in endpoints} == {
        ("terminate", "sigv4", "s3")
    }
    assert [e.signing_region for e in endpoints] == ["us-east-1", "us-east-1", "", "", "", ""]


def material(refresh):
    return [(m.name, m.required, m.secret) for m in refresh.material]


@pytest.mark.parametrize("profile_id", ["aws", "aws-s3"])
def test_the_refresh_of_aws(profile_id):
    first, *others = PROFILES[profile_id].credentials
    assert [c.refresh for c in others] == [None, None]
    refresh = first.refresh
    assert refresh.strategy is Strategy.AWS_STS_ASSUME_ROLE
    assert (refresh.refresh_before_seconds, refresh.max_lifetime_seconds) == (300, 3600)
    assert material(refresh) == [
        ("role_arn", True, False),
        ("session_name", False, False),
        ("external_id", False, False),
        ("aws_region", False, False),
        ("aws_access_key_id", False, False),
        ("aws_secret_access_key", False, True),
        ("aws_session_token", False, True),
    ]
    assert [(o.output, o.credential) for o in refresh.additional_outputs] == [
        ("secret_access_key", "secret_access_key"),
        ("session_token", "session_token"),
    ]


@pytest.mark.parametrize(
    ("profile_id", "service", "person"),
    [
        ("google-cloud", "service_account_token", "adc_token"),
        ("google-vertex-ai", "service_account_token", "gcloud_adc_token"),
    ],
)
def test_the_refreshes_of_google(profile_id, service, person):
    named = {c.name: c.refresh for c in PROFILES[profile_id].credentials if c.refresh}
    assert set(named) == {service, person}
    assert named[service].strategy is Strategy.GOOGLE_SERVICE_ACCOUNT_JWT
    assert named[person].strategy is Strategy.OAUTH2_REFRESH_TOKEN
    for refresh in named.values():
        assert refresh.token_url == "https://oauth2.googleapis.com/token"
        assert refresh.scopes == ("https://www.googleapis.com/auth/cloud-platform",)
        assert (refresh.refresh_before_seconds, refresh.max_lifetime_seconds) == (300, 3600)
    assert material(named[service]) == [
        ("client_email", True, False),
        ("private_key", True, True),
        ("subject", False, False),
    ]
    assert material(named[person]) == [
        ("client_id", True, False),
        ("client_secret", True, True),
        ("refresh_token", True, True),
    ]


def test_others_do_not_refresh_and_nothing_is_granted():
    refreshing = {i for i, p in PROFILES.items() if any(c.refresh for c in p.credentials)}
    assert refreshing == {"aws", "aws-s3", "google-cloud", "google-vertex-ai"}
    assert not any(c.token_grant for p in PROFILES.values() for c in p.credentials)


def test_which_providers_may_be_created_empty():
    empty = {i for i, p in PROFILES.items() if p.allows_empty_credentials}
    assert empty == {"aws", "aws-s3", "google-cloud", "google-vertex-ai"}


def test_reading_them_all_is_quick_and_happens_once():
    read = builtin_profiles.__wrapped__
    started = time.process_time()
    again = read()
    assert time.process_time() - started < 0.1
    assert again == PROFILES
    assert builtin_profiles() is builtin_profiles()


def test_the_revision_names_the_contents_and_not_the_process():
    code = "from openshell.providers.profile import builtin; print(builtin.builtin_revision())"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert other.stdout.strip() == builtin_revision()
    assert len(builtin_revision()) == 64
