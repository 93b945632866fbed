"""A small world and everything that may be done to it, so that most things get in each other's way.

Sandbox `box` has five providers; each writer below is fine by itself, and many pairs are not. What a
writer answers and what the world is afterwards are told in words that are the same in every run.
"""

import contextlib
import uuid

from integration.refresh.conftest import Refreshing
from openshell._proto import datamodel_pb2, openshell_pb2
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.codec.profile import profile_to_proto
from openshell.gateway.errors import error_to_status
from openshell.gateway.services.profile_apply import ProfileApply
from openshell.gateway.services.profile_writer import ProfileWriter
from openshell.gateway.services.profiles import Profiles
from openshell.gateway.store.model import StoreError, UniqueViolation
from openshell.gateway.workspaces import ensure_default
from support.invariants import Picture
from support.policies import BOUND, OPEN
from support.profile_values import credential, endpoint, granted, profile, refreshed

WORKSPACE, PLATFORM = "default", ""
NOW_MS = 1_800_000_000_000


def audited(*hosts):
    """`OPEN`, and some hosts where nothing is enforced."""
    return OPEN + "".join(
        f"  audited{at}:\n    endpoints:\n"
        f"      - {{host: {host}, port: 443, protocol: rest, enforcement: audit, access: full}}\n"
        "    binaries: [{path: /usr/bin/curl}]\n"
        for at, host in enumerate(hosts)
    )


IDLE = profile("idle", credentials=[credential("IDLE")], endpoints=[endpoint("idle.acme.test")])
# What `OPEN` enforces, this only audits.
IDLE_CLASHING = profile(
    "idle",
    credentials=[credential("IDLE")],
    endpoints=[endpoint("api.example.com", enforcement="audit")],
)
CALM = profile("calm", credentials=[credential("CALM")], endpoints=[endpoint("calm.acme.test")])
CALM_WIDER = profile(
    "calm",
    credentials=[credential("CALM")],
    endpoints=[endpoint("calm.acme.test"), endpoint("wide.acme.test")],
)
CALM_CLASHING = profile(
    "calm",
    credentials=[credential("CALM")],
    endpoints=[endpoint("calm.acme.test"), endpoint("api.example.com", enforcement="audit")],
)
CALM_GRANTED = profile(
    "calm",
    credentials=[credential("CALM"), granted("extra")],
    endpoints=[endpoint("calm.acme.test"), endpoint("api.acme.test")],
)
FRESH = profile("fresh", endpoints=[endpoint("fresh.acme.test")])
FRESH_OTHER = profile("fresh", endpoints=[endpoint("other.acme.test")])


class Gateway(Refreshing):
    """One gateway's services, those of profiles among them."""

    def __init__(self, store, clock=lambda: NOW_MS):
        super().__init__(store, clock)
        writer = ProfileWriter(store, self.bus)
        self.parts += (Profiles(store, writer), ProfileApply(writer))

    async def imports(self, *profiles, workspace=WORKSPACE):
        items = [
            openshell_pb2.ProviderProfileImportItem(profile=profile_to_proto(each))
            for each in profiles
        ]
        return await self.ImportProviderProfiles(
            openshell_pb2.ImportProviderProfilesRequest(profiles=items, workspace=workspace)
        )

    async def updates(self, content, expected, *, workspace=WORKSPACE):
        item = openshell_pb2.ProviderProfileImportItem(profile=profile_to_proto(content))
        return await self.UpdateProviderProfiles(
            openshell_pb2.UpdateProviderProfilesRequest(
                id=content.id,
                profile=item,
                expected_resource_version=expected,
                workspace=workspace,
            )
        )

    async def applies(self, *pairs, workspace=WORKSPACE):
        items = [
            ext.ApplyProfilesItem(
                id=content.id,
                profile=profile_to_proto(content),
                expected_resource_version=expected,
            )
            for content, expected in pairs
        ]
        return await self.Apply(ext.ApplyProfilesRequest(items=items, workspace=workspace))

    async def rolls_back(self, profile_id, number):
        return await self.Rollback(
            ext.RollbackProfileRequest(workspace=WORKSPACE, id=profile_id, to_revision=number)
        )

    async def deletes_profile(self, profile_id):
        return await self.DeleteProviderProfile(
            openshell_pb2.DeleteProviderProfileRequest(id=profile_id, workspace=WORKSPACE)
        )

    async def changes_provider(self, name, version=0, **credentials):
        metadata = datamodel_pb2.ObjectMeta(name=name, resource_version=version)
        message = datamodel_pb2.Provider(metadata=metadata, credentials=credentials)
        return await self.UpdateProvider(openshell_pb2.UpdateProviderRequest(provider=message))

    async def deletes_provider(self, name):
        return await self.DeleteProvider(openshell_pb2.DeleteProviderRequest(name=name))

    async def attaches(self, provider):
        return await self.AttachSandboxProvider(
            openshell_pb2.AttachSandboxProviderRequest(sandbox_name="box", provider_name=provider)
        )

    async def detaches(self, provider):
        return await self.DetachSandboxProvider(
            openshell_pb2.DetachSandboxProviderRequest(sandbox_name="box", provider_name=provider)
        )

    async def configures(self, provider, key):
        # Far from its end, so that nothing is due.
        return await self.configure(key, provider=provider, expires_at_ms=NOW_MS + 10**9)

    async def sets_policy(self, text):
        with contextlib.suppress(AttributeError):
            return await self.set_policy(_BOX, text)


_BOX = openshell_pb2.Sandbox(metadata=datamodel_pb2.ObjectMeta(name="box"))


async def build(store, variant):
    """The world, in an empty database. It has `SINCE_V2`, `BEFORE_V2` and `UNDER_GLOBAL` variants."""
    await store.write(lambda tx: ensure_default(tx, str(uuid.uuid4())))
    gateway = Gateway(store)
    await gateway.imports(CALM, workspace=PLATFORM)
    await gateway.imports(
        IDLE_CLASHING,
        profile("work", endpoints=[endpoint("api.example.com", enforcement="audit")]),
        profile("g1", credentials=[granted("one")]),
        profile("g2", credentials=[granted("two")]),
        profile("gone", credentials=[granted("gone")]),
        profile("graph", credentials=[refreshed("TOKEN")], endpoints=[endpoint("graph.acme.test")]),
    )
    await gateway.updates(IDLE, 1)
    for name, kind, credentials in (
        ("plain", "generic", {"PLAIN": "x"}),
        ("other", "generic", {"OTHER": "x"}),
        ("extra", "generic", {"SHARED": "x"}),
        ("idler", "idle", {"IDLE": "x"}),
        ("worker", "work", {"ACME_KEY": "x"}),
        ("calmer", "calm", {"CALM": "x"}),
        ("first", "graph", {}),
        ("second", "graph", {}),
        ("p1", "g1", {}),
        ("p2", "g2", {}),
    ):
        await gateway.provider(name, credentials, kind=kind, scope=WORKSPACE)
    await gateway.configures("plain", "OLD")
    if variant is not BEFORE_V2:
        await gateway.v2()
    attached = ["plain", "other", "calmer", "first", "second"]
    await gateway.sandbox("box", providers=attached, policy=OPEN)
    if variant is UNDER_GLOBAL:
        await gateway.set_global(OPEN)


WRITERS = {
    "import fresh": lambda g: g.imports(FRESH),
    "import another fresh": lambda g: g.imports(FRESH_OTHER),
    "import a shadow with a grant": lambda g: g.imports(CALM_GRANTED),
    "update calm": lambda g: g.updates(CALM_WIDER, 1, workspace=PLATFORM),
    "update calm badly": lambda g: g.updates(CALM_CLASHING, 1, workspace=PLATFORM),
    "update idle": lambda g: g.updates(IDLE_CLASHING, 2),
    "delete idle": lambda g: g.deletes_profile("idle"),
    "delete gone": lambda g: g.deletes_profile("gone"),
    "apply fresh and idle": lambda g: g.applies((FRESH, 0), (IDLE_CLASHING, 2)),
    "roll idle back": lambda g: g.rolls_back("idle", 1),
    "create newp": lambda g: g.provider("newp", {"NEW": "x"}),
    "create gone": lambda g: g.provider("gone", {}, kind="gone", scope=WORKSPACE),
    "add SHARED to plain": lambda g: g.changes_provider("plain", SHARED="new"),
    "add SHARED to other": lambda g: g.changes_provider("other", SHARED="new"),
    "change other at its version": lambda g: g.changes_provider("other", 1, OTHER="new"),
    "write the refreshed key": lambda g: g.changes_provider("plain", OLD="new"),
    "change extra": lambda g: g.changes_provider("extra", SHARED="", EXTRA="new"),
    "delete extra": lambda g: g.deletes_provider("extra"),
    "create a sandbox with plain and extra": lambda g: g.sandbox(
        "box2", providers=["plain", "extra"], policy=OPEN
    ),
    "create a sandbox with newp": lambda g: g.sandbox("box2", providers=["newp"], policy=OPEN),
    "create a sandbox with idler": lambda g: g.sandbox("box3", providers=["idler"], policy=OPEN),
    "attach extra": lambda g: g.attaches("extra"),
    "attach idler": lambda g: g.attaches("idler"),
    "attach worker": lambda g: g.attaches("worker"),
    "attach p1": lambda g: g.attaches("p1"),
    "attach p2": lambda g: g.attaches("p2"),
    "detach plain": lambda g: g.detaches("plain"),
    "configure first": lambda g: g.configures("first", "TOKEN"),
    "configure second": lambda g: g.configures("second", "TOKEN"),
    "configure extra": lambda g: g.configures("extra", "OTHER"),
    "forget a refresh": lambda g: g.forget("OLD", "plain"),
    "audit": lambda g: g.sets_policy(audited("api.acme.test", "wide.acme.test")),
    "audit calm": lambda g: g.sets_policy(audited("calm.acme.test")),
    "bind plain": lambda g: g.sets_policy(BOUND.replace("provider: work", "provider: plain")),
    "turn v2 on": lambda g: g.v2(),
    "delete the global policy": lambda g: g.delete_global(),
}

READ_FIRST = frozenset(
    {
        "create newp",
        "create gone",
        "add SHARED to plain",
        "add SHARED to other",
        "change other at its version",
        "write the refreshed key",
        "change extra",
        "configure first",
        "configure second",
        "configure extra",
    }
)
"""They read, seal what they were given, and only then begin their transaction: they may find that
what they read is not there any more, and say ABORTED."""

BEFORE_V2 = (
    "turn v2 on",
    "attach worker",
    "audit calm",
    "update calm badly",
    "attach p1",
    "import a shadow with a grant",
    "create a sandbox with idler",
    "update idle",
)
"""What the setting can contradict, for a world where it is off."""
UNDER_GLOBAL = (
    "delete the global policy",
    "attach worker",
    "update calm badly",
    "attach p1",
    "update idle",
    "create a sandbox with idler",
)
"""The same of a policy for all sandboxes, which suppresses what providers add."""
SINCE_V2 = tuple(name for name in WRITERS if name not in (BEFORE_V2[0], UNDER_GLOBAL[0]))
VARIANTS = (SINCE_V2, BEFORE_V2, UNDER_GLOBAL)

ONE_WINS = (
    ("import fresh", "import fresh"),
    ("import fresh", "import another fresh"),
    ("import fresh", "apply fresh and idle"),
    ("import a shadow with a grant", "attach p1"),
    ("update calm", "update calm"),
    ("update calm", "audit"),
    ("update idle", "attach idler"),
    ("update idle", "create a sandbox with idler"),
    ("update idle", "apply fresh and idle"),
    ("apply fresh and idle", "attach idler"),
    ("roll idle back", "attach idler"),
    ("create newp", "create newp"),
    ("add SHARED to plain", "add SHARED to other"),
    ("add SHARED to plain", "attach extra"),
    ("add SHARED to plain", "create a sandbox with plain and extra"),
    ("change other at its version", "change other at its version"),
    ("delete extra", "attach extra"),
    ("delete extra", "create a sandbox with plain and extra"),
    ("create a sandbox with plain and extra", "create a sandbox with plain and extra"),
    ("attach p1", "attach p2"),
    ("attach p1", "audit"),
    ("attach extra", "configure extra"),
    ("configure first", "configure second"),
    ("detach plain", "bind plain"),
)
"""Not both, whoever is first. The rest of the pairs are held to what they do one after the other."""
ONE_WINS_V2 = (
    ("turn v2 on", "attach worker"),
    ("turn v2 on", "audit calm"),
    ("turn v2 on", "update calm badly"),
)
ONE_WINS_GLOBAL = (
    ("delete the global policy", "attach worker"),
    ("delete the global policy", "update calm badly"),
)

TOO_LATE = (
    ("attach idler", "delete idle"),
    ("create a sandbox with idler", "delete idle"),
    ("delete idle", "update idle"),
    ("delete idle", "apply fresh and idle"),
    ("delete gone", "create gone"),
    ("delete extra", "change extra"),
    ("delete extra", "configure extra"),
)
"""Not in this order; in the other one both may."""

SUCCESS = frozenset({"done", "written", "changed"})


async def outcome(call):
    """What a caller learns, in a word."""
    try:
        response = await call
    except UniqueViolation:
        # `sandbox` stands for the RPC, which says this.
        return "ALREADY_EXISTS"
    except Exception as error:
        told = error_to_status(error)
        if told is None or (isinstance(error, StoreError) and told[0].name == "INTERNAL"):
            raise
        return told[0].name
    for name in ("imported", "updated", "applied"):
        if hasattr(response, name):
            return "written" if getattr(response, name) else "refused"
    for name in ("attached", "detached", "deleted"):
        if hasattr(response, name) and not hasattr(response, "settings_revision"):
            return "changed" if getattr(response, name) else "unchanged"
    return "done"


def facts(objects):
    """The world without ids and versions: equal for worlds that came about in the same way."""
    picture = Picture.of(objects)
    told = [
        f"v2 {picture.settings.get('providers_v2_enabled')}",
        f"{len(picture.secrets)} secrets",
        *(
            f"sandbox {s.metadata.name}: {list(s.spec.providers)} "
            f"{picture.policy(s).SerializeToString(deterministic=True)!r}"
            for s in picture.sandboxes
        ),
        *(
            f"profile {where}: {profile.SerializeToString(deterministic=True)!r}"
            for where, profile in picture.profiles.items()
        ),
    ]
    for (_workspace, name), (row_id, record) in picture.providers.items():
        ends = sorted(record.credential_expires_at_ms.items())
        told.append(f"provider {name}: {sorted(record.credential_handles)} {ends}")
        told += [
            f"refresh {name} {state.credential_key} {state.status}"
            for state in picture.states.get(row_id, ())
        ]
    for row in objects:
        if row.kind == "provider_profile_revision":
            done = ext.ProfileRevision.FromString(row.payload)
            told.append(f"history {row.scope} {row.version}: {done.operation}")
    return sorted(told)
