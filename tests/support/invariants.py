"""What must be true of every database of a gateway, judged from its rows alone.

Written from the contract (providers.md 9, 10, 12, 15, 18, 21), not from the gateway: rows are read
with plain SQL, payloads are protobuf, and no rule of the product is called. So it can be wrong, but
not in the way in which the product is. It knows stored profiles; of the built-in ones, which have
endpoints of their own, only `google-cloud` may be used beside it.

    with Objects(url) as objects:
        assert not violations(objects.read())
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from openshell._proto import datamodel_pb2, openshell_pb2, sandbox_pb2

__all__ = ["Obj", "Objects", "Picture", "violations"]

COLUMNS = (
    "object_type, id, workspace, name, scope, version, status, payload, labels, dedup_key, "
    "hit_count, created_at_ms, updated_at_ms, resource_version"
)
GCP_SETTINGS = {
    "project_id": ("GCP_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"),
    "region": ("CLOUD_ML_REGION", "GCP_LOCATION"),
    "service_account_email": ("GCP_SERVICE_ACCOUNT_EMAIL",),
}
EVERY_PATH = ("", "**", "/**")


class Obj(NamedTuple):
    """One row, columns in the order of `COLUMNS`."""

    kind: str
    id: str
    workspace: str
    name: str | None
    scope: str | None
    version: int | None
    status: str | None
    payload: bytes
    labels: Any
    dedup_key: str | None
    hit_count: int
    created_at_ms: int
    updated_at_ms: int
    resource_version: int


class Objects:
    """The rows of one database, over a connection of its own."""

    def __init__(self, url: str) -> None:
        self._is_sqlite = url.startswith("sqlite:")
        if self._is_sqlite:
            path = url.removeprefix("sqlite:")
            self._connection: Any = sqlite3.connect(path, timeout=10, check_same_thread=False)
        else:
            import psycopg

            self._connection = psycopg.connect(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self) -> list[Obj]:
        """One snapshot."""
        cursor = self._connection.cursor()
        found = cursor.execute(f"SELECT {COLUMNS} FROM objects ORDER BY id").fetchall()
        self._connection.commit()
        return [Obj(*row)._replace(payload=bytes(row[7])) for row in found]

    def restore(self, objects: list[Obj]) -> None:
        """Makes these the only rows."""
        mark = "?" if self._is_sqlite else "%s"
        marks = ", ".join(f"{mark}::jsonb" if mark != "?" and at == 8 else mark for at in range(14))
        cursor = self._connection.cursor()
        cursor.execute("DELETE FROM objects")
        cursor.executemany(
            f"INSERT INTO objects ({COLUMNS}) VALUES ({marks})",
            [(*o[:8], o.labels if isinstance(o.labels, str) else json.dumps(o.labels), *o[9:])
             for o in objects],
        )  # fmt: skip
        self._connection.commit()


class Grant(NamedTuple):
    """A token grant at one selector."""

    provider: str
    credential: str
    host: str
    port: int
    path: str

    @property
    def score(self) -> int:
        stars = self.host.count("*")
        labels = [label for label in self.host.split(".") if label]
        total = max(0, 100_000 - 10_000 * stars) + 100 * len(labels) + len(self.host) - stars
        if self.path not in ("", "**"):
            total += 1_000_000 + len(self.path) - self.path.count("*")
        return total


@dataclass
class Attachment:
    """A provider of a sandbox as its rows have it."""

    id: str
    record: datamodel_pb2.Provider
    profile: openshell_pb2.ProviderProfile | None
    states: list[openshell_pb2.StoredProviderCredentialRefreshState]

    @property
    def name(self) -> str:
        return self.record.metadata.name

    def keys(self, now_ms: int) -> set[str]:
        """Credential keys that are its own: present ones that have not ended, and refreshed ones."""
        ends = self.record.credential_expires_at_ms
        held = {
            key
            for key in self.record.credential_handles
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) and not 0 < ends.get(key, 0) <= now_ms
        }
        return held.union(*map(reserved, self.states))

    def derived(self) -> set[str]:
        """Variables that its settings stand for."""
        if self.record.type != "google-cloud":
            return set()
        found = {"GCE_METADATA_HOST"}
        for setting, names in GCP_SETTINGS.items():
            if self.record.config.get(setting, "").strip():
                found.update(names)
        return found

    def grants(self) -> set[Grant]:
        found: set[Grant] = set()
        profile = self.profile or openshell_pb2.ProviderProfile()
        for credential in profile.credentials:
            if not credential.HasField("token_grant"):
                continue
            for at in profile.endpoints:
                for port in ports_of(at):
                    places = [(at.host, port, at.path)]
                    for other in credential.token_grant.audience_overrides:
                        fits = not other.host or hosts_meet(other.host, at.host)
                        if fits and other.port in (0, port):
                            places.append((other.host or at.host, port, other.path or at.path))
                    found.update(
                        Grant(self.name, credential.name, host.lower(), number, path)
                        for host, number, path in places
                    )
        return found


@dataclass
class Picture:
    """The rows, read as what they mean."""

    sandboxes: list[openshell_pb2.Sandbox] = field(default_factory=list)
    providers: dict[tuple[str, str], tuple[str, datamodel_pb2.Provider]] = field(
        default_factory=dict
    )
    profiles: dict[tuple[str, str], openshell_pb2.ProviderProfile] = field(default_factory=dict)
    states: dict[str, list[openshell_pb2.StoredProviderCredentialRefreshState]] = field(
        default_factory=dict
    )
    policies: dict[str, Obj] = field(default_factory=dict)
    """The newest revision of each scope."""
    settings: dict[str, Any] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, objects: list[Obj]) -> Picture:
        picture = cls()
        for row in objects:
            picture._add(row)
        return picture

    def _add(self, row: Obj) -> None:
        match row.kind:
            case "sandbox":
                self.sandboxes.append(openshell_pb2.Sandbox.FromString(row.payload))
            case "provider":
                record = datamodel_pb2.Provider.FromString(row.payload)
                self.providers[row.workspace, row.name or ""] = (row.id, record)
            case "provider_profile":
                stored = openshell_pb2.StoredProviderProfile.FromString(row.payload)
                self.profiles[row.workspace, row.name or ""] = stored.profile
            case "provider_credential_refresh_state":
                state = openshell_pb2.StoredProviderCredentialRefreshState.FromString(row.payload)
                self.states.setdefault(row.scope or "", []).append(state)
            case "sandbox_policy":
                known = self.policies.get(row.scope or "")
                if known is None or (known.version or 0) < (row.version or 0):
                    self.policies[row.scope or ""] = row
            case "gateway_settings":
                self.settings = json.loads(row.payload)["settings"]
            case "credential.gateway-encrypted":
                self.secrets.add(row.id)

    @property
    def composes(self) -> bool:
        everywhere = self.policies.get("__global__")
        has_global = everywhere is not None and everywhere.status == "loaded"
        return self.settings.get("providers_v2_enabled") is True and not has_global

    def attached(self, sandbox: openshell_pb2.Sandbox) -> list[Attachment]:
        """Its providers that exist."""
        workspace = sandbox.metadata.workspace
        found = []
        for name in dict.fromkeys(sandbox.spec.providers):
            if (workspace, name) in self.providers:
                row_id, record = self.providers[workspace, name]
                profile = self.meaning(record, workspace)
                found.append(Attachment(row_id, record, profile, self.states.get(row_id, [])))
        return found

    def meaning(
        self, record: datamodel_pb2.Provider, workspace: str
    ) -> openshell_pb2.ProviderProfile | None:
        platform = self.profiles.get(("", record.type))
        if not record.profile_workspace:
            return platform
        return self.profiles.get((workspace, record.type), platform)

    def policy(self, sandbox: openshell_pb2.Sandbox) -> Any:
        row = self.policies.get(sandbox.metadata.id)
        if row is None:
            return sandbox_pb2.SandboxPolicy()
        return openshell_pb2.PolicyRevisionPayload.FromString(row.payload).policy


def violations(objects: list[Obj], now_ms: int | None = None) -> list[str]:
    """One sentence for each thing that must not be."""
    picture = Picture.of(objects)
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    found = [*_loose_ends(picture)]
    for sandbox in picture.sandboxes:
        attached = picture.attached(sandbox)
        told = [
            *_dangling(picture, sandbox),
            *_keys(attached, now),
            *_reservations(attached),
            *_grants(attached),
            *_bindings(picture, sandbox, attached),
            *_composition(picture, sandbox, attached),
        ]
        found += [f"sandbox {sandbox.metadata.name}: {sentence}" for sentence in told]
    return found


def reserved(state: openshell_pb2.StoredProviderCredentialRefreshState) -> list[str]:
    return [state.credential_key, *state.additional_output_keys.values()]


def _dangling(picture: Picture, sandbox: openshell_pb2.Sandbox) -> Iterator[str]:
    names = list(sandbox.spec.providers)
    for name in names:
        if (sandbox.metadata.workspace, name) not in picture.providers:
            yield f"(c) provider {name} does not exist"
    if len(names) != len(set(names)):
        yield f"a provider is attached twice: {names}"
    if len(names) > 32:
        yield "more than 32 providers"


def _keys(attached: list[Attachment], now_ms: int) -> Iterator[str]:
    """(a) One variable, one owner."""
    for one, two in itertools.combinations(attached, 2):
        for key in sorted(one.keys(now_ms) & two.keys(now_ms)):
            yield f"(a) {one.name} and {two.name} both claim {key}"
    for one, two in itertools.permutations(attached, 2):
        for key in sorted(one.keys(now_ms) & two.derived()):
            yield f"(a) {key} is a credential of {one.name} and a setting of {two.name}"


def _reservations(attached: list[Attachment]) -> Iterator[str]:
    """(e) One variable, one refresh that writes it."""
    counted = Counter(key for item in attached for state in item.states for key in reserved(state))
    for key, count in counted.items():
        if count > 1:
            yield f"(e) {count} refreshes write {key}"


def _grants(attached: list[Attachment]) -> Iterator[str]:
    """(b) No request that two grants fit equally well."""
    every = sorted({grant for item in attached for grant in item.grants()})
    for one, two in itertools.combinations(every, 2):
        if (
            one[:2] != two[:2]
            and one.port == two.port
            and one.score == two.score
            and hosts_meet(one.host, two.host)
            and paths_meet(one.path, two.path)
        ):
            yield f"(b) {one} and {two} are ambiguous"


def _bindings(
    picture: Picture, sandbox: openshell_pb2.Sandbox, attached: list[Attachment]
) -> Iterator[str]:
    """What the policy binds is attached, and nothing else says where its credentials go."""
    by_name = {item.name: item for item in attached}
    for key, rule in picture.policy(sandbox).network_policies.items():
        for at in rule.endpoints:
            if not at.HasField("credential_binding"):
                continue
            bound = by_name.get(at.credential_binding.provider)
            if bound is None:
                yield f"rule {key} binds {at.credential_binding.provider}, which is not attached"
            elif bound.profile is not None and bound.profile.endpoints:
                yield f"rule {key} binds {bound.name}, whose profile has endpoints itself"


def _composition(
    picture: Picture, sandbox: openshell_pb2.Sandbox, attached: list[Attachment]
) -> Iterator[str]:
    """(d) No two endpoints that would treat one request differently."""
    rules = dict(picture.policy(sandbox).network_policies)
    for key in rules:
        if key.startswith("_provider_"):
            yield f"rule {key} of a layer is stored"
    sides = [(key, at) for key, rule in rules.items() for at in rule.endpoints]
    if picture.composes:
        for item in attached:
            layer = f"layer of {item.name}"
            sides += [(layer, at) for at in (item.profile.endpoints if item.profile else ())]
    for (first, one), (second, two) in itertools.combinations(sides, 2):
        if first == second and first.startswith("layer"):
            continue
        differs = contradiction(one, two)
        if differs:
            yield f"(d) {first} and {second} disagree on {differs} at {one.host} and {two.host}"


def contradiction(one: Any, two: Any) -> str:
    """The name of what two endpoints disagree on; "" if they never meet or do not disagree."""
    if not (ports_of(one) & ports_of(two) and hosts_meet(one.host, two.host)):
        return ""
    if (one.tls == "skip") != (two.tls == "skip"):
        return "tls"
    if set(one.allowed_ips) != set(two.allowed_ips):
        return "allowed_ips"
    if (one.protocol == "tcp") != (two.protocol == "tcp"):
        return "protocol tcp"
    if not (has_requests(one) and has_requests(two) and paths_meet(one.path, two.path)):
        return ""
    if specificity(one.path) != specificity(two.path):
        return ""
    for name in ("protocol", "allow_encoded_slash", "websocket_credential_rewrite",
                 "request_body_credential_rewrite", "credential_signing", "signing_service",
                 "signing_region"):  # fmt: skip
        if getattr(one, name) != getattr(two, name):
            return name
    if (one.enforcement == "enforce") != (two.enforcement == "enforce"):
        return "enforcement"
    if one.credential_binding.provider != two.credential_binding.provider:
        return "credential_binding"
    return ""


def has_requests(at: Any) -> bool:
    inspected = at.protocol not in ("", "tcp")
    return bool(inspected or at.allowed_ips or at.tls or at.HasField("credential_binding"))


def specificity(path: str) -> int:
    return len(path.replace("*", ""))


def ports_of(at: Any) -> set[int]:
    return set(at.ports) or {at.port}


def hosts_meet(one: str, two: str) -> bool:
    """Whole labels only: `*` is one, `**` any number. More is not needed by the tests."""

    def meet(left: list[str], right: list[str]) -> bool:
        if not left or not right:
            return all(label == "**" for label in (*left, *right))
        if "**" in (left[0], right[0]):
            return meet(left[1:], right) or meet(left, right[1:])
        return (left[0] == right[0] or "*" in (left[0], right[0])) and meet(left[1:], right[1:])

    return meet(one.lower().split("."), two.lower().split("."))


def paths_meet(one: str, two: str) -> bool:
    if one in EVERY_PATH or two in EVERY_PATH or one == two:
        return True
    if "*" not in one or "*" not in two:
        return bool(_path_pattern(one).fullmatch(two) or _path_pattern(two).fullmatch(one))
    if not (one.endswith("/**") and two.endswith("/**")):
        return True
    left, right = one[:-2], two[:-2]
    return left.startswith(right) or right.startswith(left)


def _path_pattern(path: str) -> re.Pattern[str]:
    """`X/**` is X and all below it; any other star crosses separators."""
    if path.endswith("/**"):
        return re.compile(re.escape(path[:-3]) + "(/.*)?")
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", path)))


def _loose_ends(picture: Picture) -> Iterator[str]:
    """Every reference points at something, every secret has one owner."""
    ids = {row_id for row_id, _record in picture.providers.values()}
    owners = Counter(
        handle.handle
        for _row_id, record in picture.providers.values()
        for handle in record.credential_handles.values()
    )
    for provider_id, states in picture.states.items():
        if provider_id not in ids:
            yield f"a refresh of provider {provider_id}, which does not exist"
        for state in states:
            owners.update(handle.handle for handle in state.secret_material_handles.values())
            if state.provider_id != provider_id:
                yield f"a refresh of {state.provider_id} is kept under {provider_id}"
    for handle in picture.secrets - owners.keys():
        yield f"secret {handle[:12]} is orphaned"
    for handle in owners.keys() - picture.secrets:
        yield f"secret {handle[:12]} is missing"
    for handle, count in owners.items():
        if count > 1:
            yield f"secret {handle[:12]} has {count} owners"
    for _row_id, record in picture.providers.values():
        if record.credentials:
            yield f"provider {record.metadata.name} is stored with values"
    living = {sandbox.metadata.id for sandbox in picture.sandboxes}
    for scope in picture.policies.keys() - living - {"__global__"}:
        yield f"a policy of sandbox {scope}, which does not exist"
    for sandbox in picture.sandboxes:
        if sandbox.metadata.id not in picture.policies:
            yield f"sandbox {sandbox.metadata.name} has no policy"
