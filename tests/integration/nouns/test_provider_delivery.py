"""What a supervisor is handed, over gRPC: rows of providers.md 13 and 15."""

import grpc
import pytest

from openshell._proto import openshell_pb2
from openshell.gateway.records import Kind
from openshell.gateway.store import MatchResourceVersion, NewRow
from openshell.providers.profile.model import AudienceOverride
from support.policies import BOUND, OPEN
from support.profile_values import credential, endpoint, granted, profile, refreshed
from support.statuses import refused

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


def places(answer, key):
    binding = answer.static_credential_bindings[key]
    return [(e.host, e.port, e.path) for e in binding.endpoints]


OF_PROFILE = [("api.acme.test", 443, "/v1/**"), ("api.acme.test", 8443, "/v1/**")]
OF_POLICY = [("api.example.com", 443, "/v1/**")]


# 13, the table: what the profile has, what the policy binds. v2 makes no difference (21).
@pytest.mark.parametrize("v2", [False, True], ids=["v2 off", "v2 on"])
@pytest.mark.parametrize(
    ("endpoints", "policy", "wanted"),
    [
        pytest.param("some", OPEN, OF_PROFILE, id="endpoints, none"),
        pytest.param("some", BOUND, None, id="endpoints, present"),
        pytest.param("empty", BOUND, OF_POLICY, id="no endpoints, present"),
        pytest.param("empty", OPEN, [], id="no endpoints, none"),
        pytest.param("no profile", BOUND, OF_POLICY, id="no profile, present"),
        pytest.param("no profile", OPEN, [], id="no profile, none"),
    ],
)
async def test_where_static_credentials_go(wire, endpoints, policy, wanted, v2):
    await wire.v2(v2)
    if endpoints != "no profile":
        some = [endpoint("API.acme.test", ports=(443, 8443), path="/v1/**")]
        await wire.profile(profile(endpoints=some if endpoints == "some" else []))
    await wire.provider("work", {"ACME_KEY": "secret"}, kind="acme")
    await wire.provider("other", {"OTHER": "fine"}, kind="codex")
    if wanted is None:
        box = await wire.sandbox(providers=["work"])
        for call in (
            wire.set_policy(box, policy),
            wire.sandbox("new", providers=["work"], policy=policy),
        ):
            code, says = await refused(call)
            assert code is FAILED_PRECONDITION
            assert "work" in says
        return
    box = await wire.sandbox(providers=["work", "other"], policy=policy)
    answer = await wire.environment(box)
    # Whatever is withheld, no other provider suffers.
    assert answer.environment["OTHER"] == "fine"
    if wanted:
        assert answer.environment["ACME_KEY"] == "secret"
        assert places(answer, "ACME_KEY") == wanted
    else:
        assert "ACME_KEY" not in answer.environment
        assert "ACME_KEY" not in answer.static_credential_bindings
    assert not answer.non_secret_environment_keys


async def test_under_a_global_policy_only_profiles_bind(wire):
    await wire.profile(profile())
    await wire.provider("mine", {"ACME_KEY": "a"}, kind="acme")
    await wire.provider("work", {"API_KEY": "b"})
    box = await wire.sandbox(providers=["mine", "work"], policy=BOUND)
    assert sorted((await wire.environment(box)).environment) == ["ACME_KEY", "API_KEY"]
    await wire.set_global(OPEN)
    assert sorted((await wire.environment(box)).environment) == ["ACME_KEY"]


# 5 by way of 13: "" looks at the platform, beneath any shadow; a workspace at its own first.
async def test_scopes_of_profiles(wire):
    await wire.profile(profile(endpoints=[endpoint("platform.test")]))
    await wire.profile(profile(endpoints=[endpoint("own.test")]), "default")
    await wire.profile(profile("rare", endpoints=[endpoint("rare.test")]), "default")
    await wire.provider("all", {"A": "x"}, kind="acme")
    await wire.provider("own", {"B": "x"}, kind="acme", scope="default")
    await wire.provider("lost", {"C": "x"}, kind="rare")
    box = await wire.sandbox(providers=["all", "own", "lost"])
    answer = await wire.environment(box)
    assert places(answer, "A") == [("platform.test", 443, "")]
    assert places(answer, "B") == [("own.test", 443, "")]
    assert "C" not in answer.environment


# 13: refresh-managed keys have handles; identity and handle outlive rotations, not configurations.
async def test_handles_of_refreshed_keys(wire):
    await wire.profile(profile(credentials=[refreshed("TOKEN"), credential()]))
    work = await wire.provider("work", {"TOKEN": "t1", "ACME_KEY": "k"}, kind="acme")
    await wire.refresh(work, "TOKEN", epoch="e1")
    box = await wire.sandbox(providers=["work"])

    async def handle(sandbox=box):
        bindings = (await wire.environment(sandbox)).static_credential_bindings
        assert not bindings["ACME_KEY"].workload_credential_handle
        binding = bindings["TOKEN"]
        assert binding.credential_identity == f"refresh:{binding.workload_credential_handle}"
        return binding.workload_credential_handle

    first = await handle()
    assert len(first) == 64
    for _ in range(12):
        await wire.refresh(work, "TOKEN")
        assert await handle() == first
    await wire.refresh(work, "TOKEN", epoch="e2")
    second = await handle()
    assert second != first
    await wire.profile(
        profile(credentials=[refreshed("TOKEN"), credential()], endpoints=[endpoint("b.test")])
    )
    assert await handle() not in (first, second)
    other = await wire.sandbox("other", providers=["work"])
    assert await handle(other) != await handle()


# 13 and 18: plain settings come without bindings and are listed as such.
async def test_plain_settings_and_legacy_supervisors(wire):
    narrow = AudienceOverride(path="/v2/**", audience="second", scopes=("s",))
    await wire.profile(
        profile(credentials=[credential(), granted(audience="first", audience_overrides=(narrow,))])
    )
    await wire.provider("work", {"ACME_KEY": "secret"}, kind="acme", expires={"ACME_KEY": 2**50})
    await wire.provider("cloud", {"T": "x"}, kind="google-cloud", config={"project_id": "p-1"})
    box = await wire.sandbox(providers=["work", "cloud"])
    full = await wire.environment(box)
    assert sorted(full.environment) == [
        "ACME_KEY",
        "GCE_METADATA_HOST",
        "GCP_PROJECT_ID",
        "GOOGLE_CLOUD_PROJECT",
    ]
    assert list(full.non_secret_environment_keys) == [
        "GCE_METADATA_HOST",
        "GCP_PROJECT_ID",
        "GOOGLE_CLOUD_PROJECT",
    ]
    assert {key: grant.token_grant.audience for key, grant in full.dynamic_credentials.items()} == {
        "api.acme.test\t443\t\twork:grant": "first",
        "api.acme.test\t443\t/v2/**\twork:grant": "second",
    }
    assert not any(
        grant.token_grant.audience_overrides for grant in full.dynamic_credentials.values()
    )
    legacy = await wire.environment(box, bindings=False)
    assert sorted(legacy.environment) == list(full.non_secret_environment_keys)
    assert legacy.environment["GCP_PROJECT_ID"] == "p-1"
    assert not legacy.static_credential_bindings
    assert not legacy.credential_expires_at_ms
    assert legacy.non_secret_environment_keys == full.non_secret_environment_keys
    assert legacy.dynamic_credentials == full.dynamic_credentials
    assert legacy.provider_env_revision == full.provider_env_revision


async def test_a_key_that_never_goes_inside(wire):
    await wire.provider(
        "work",
        {"GOOGLE_SERVICE_ACCOUNT_KEY": "pem", "VERTEX_AI_TOKEN": "t"},
        kind="vertex",
        config={"VERTEX_AI_PROJECT_ID": "p"},
    )
    box = await wire.sandbox(providers=["work"])
    found = (await wire.environment(box)).environment
    assert "VERTEX_AI_TOKEN" in found
    assert "GOOGLE_SERVICE_ACCOUNT_KEY" not in found


# 13, revision: everything that changes the answer moves it, in both answers alike.
async def test_the_revision_moves_with_everything(wire):
    await wire.profile(profile("idle", endpoints=[]))
    await wire.profile(profile(credentials=[credential(), granted(audience="a")]))
    work = await wire.provider("work", {"ACME_KEY": "x"}, kind="acme")
    await wire.provider("idle", {"IDLE": "x"}, kind="idle")
    box = await wire.sandbox(providers=["work"], policy=OPEN)
    seen = []

    async def moved():
        revision = (await wire.environment(box)).provider_env_revision
        assert revision == (await wire.config(box)).provider_env_revision
        assert revision not in seen
        seen.append(revision)

    await moved()
    request = openshell_pb2.UpdateProviderRequest()
    request.provider.metadata.name = "work"
    request.provider.config["x"] = "1"
    for _ in range(2):
        await wire.UpdateProvider(request)
        await moved()
    await wire.profile(profile(credentials=[credential(), granted(audience="b")]))
    await moved()
    await wire.profile(profile(endpoints=[endpoint(path="/v9")]))
    await moved()
    await wire.refresh(work, "TOKEN")
    await moved()
    await wire.refresh(work, "TOKEN", epoch="next")
    await moved()
    await wire.attach(box, "idle")
    await moved()
    await wire.set_policy(box, BOUND.replace("provider: work", "provider: idle"))
    await moved()
    # The platform's, beneath a shadow.
    await wire.profile(profile(), "default")
    await wire.profile(profile(endpoints=[endpoint("late.test")]))
    await moved()


async def test_a_dangling_provider_withholds_everything(wire):
    await wire.provider()
    box = await wire.sandbox(providers=["work"], policy=BOUND)
    await wire.environment(box)
    await wire.store.write(
        lambda tx: tx.delete(Kind.PROVIDER, tx.get(Kind.PROVIDER, "default", "work").id)
    )
    for call in (wire.environment(box), wire.config(box)):
        code, says = await refused(call)
        assert code is FAILED_PRECONDITION
        assert "provider 'work' not found" in says


# 15: bindings, refused by whoever brings them.
@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        pytest.param("provider: work", "provider: ' '", INVALID_ARGUMENT, "binding", id="blank"),
        pytest.param(
            "provider: work", "provider: ' work'", INVALID_ARGUMENT, "binding", id="padded"
        ),
        pytest.param(
            "provider: work", "provider: absent", FAILED_PRECONDITION, "absent", id="not attached"
        ),
        pytest.param(
            "provider: work", "provider: full", FAILED_PRECONDITION, "full", id="two authorities"
        ),
        pytest.param(
            "        protocol: rest\n        enforcement: enforce\n        access: full\n",
            "",
            FAILED_PRECONDITION,
            "api.example.com",
            id="uninspected",
        ),
    ],
)
async def test_a_binding_is_refused(wire, old, new, code, says):
    await wire.profile(profile())
    await wire.provider("full", {"ACME_KEY": "x"}, kind="acme")
    await wire.provider("work", {"K": "x"})
    assert old in BOUND
    policy = BOUND.replace(old, new)
    box = await wire.sandbox(providers=["work", "full"], policy=BOUND)
    for call in (
        wire.set_policy(box, policy),
        wire.sandbox("new", providers=["work", "full"], policy=policy),
    ):
        found, message = await refused(call)
        assert found is code
        assert says in message
    assert (await wire.config(box)).version == 1


async def test_a_binding_has_no_place_in_the_global_policy(wire):
    code, says = await refused(wire.set_global(BOUND))
    assert code is FAILED_PRECONDITION
    assert "sandbox-scoped" in says


# 7 and 24: a stored profile that is none costs nobody else anything.
async def test_a_damaged_profile_is_left_out_and_said_once(wire, caplog):
    row = await wire.profile(profile("bad"))
    await wire.profile(profile())
    await wire.provider("work", {"ACME_KEY": "x"}, kind="acme")
    await wire.provider("lost", {"BAD": "x"}, kind="bad")
    box = await wire.sandbox(providers=["work", "lost"])
    assert sorted((await wire.environment(box)).environment) == ["ACME_KEY", "BAD"]

    def damage(tx):
        changed = NewRow(row.id, row.kind, b"\xff\xff", row.workspace, row.name)
        tx.put(changed, MatchResourceVersion(row.resource_version))

    await wire.store.write(damage)
    for _ in range(3):
        assert sorted((await wire.environment(box)).environment) == ["ACME_KEY"]
    assert caplog.text.count("'bad' of the platform is left out") == 1
