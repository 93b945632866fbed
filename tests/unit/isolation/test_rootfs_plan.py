"""The plan of a root file system, from made-up hosts."""

from __future__ import annotations

from openshell.supervisor.isolation.etc import etc_files
from openshell.supervisor.isolation.model import ExposedPath, Limits, SandboxSpec
from openshell.supervisor.isolation.rootfs import (
    AttachSource,
    BindHost,
    HostView,
    MakeDirectory,
    MakeFile,
    MakeLink,
    MaskDirectory,
    MaskFile,
    MountEtc,
    MountScratch,
    MountTrust,
    Operation,
    plan_rootfs,
    sources_of,
)

MERGED = HostView(
    links=(("/bin", "usr/bin"), ("/lib", "usr/lib")),
    directories=("/usr",),
    shell="/bin/bash",
    etc_masks=("ssh",),
    etc_masked_files=("shadow",),
)
SPLIT = HostView(
    links=(),
    directories=("/bin", "/lib", "/usr"),
    shell="/bin/sh",
    etc_masks=(),
    etc_masked_files=(),
)


def plan(
    host: HostView = MERGED, kinds: dict[str, bool] | None = None, **fields: object
) -> tuple[Operation, ...]:
    base: dict[str, object] = {
        "id": "a",
        "name": "a",
        "hostname": "box",
        "workspace_dir": "/srv/w",
        "host_uid": 1,
        "host_gid": 1,
        "limits": Limits(scratch_bytes=4096),
    }
    spec = SandboxSpec(**{**base, **fields})  # type: ignore[arg-type]
    return plan_rootfs(host, spec, kinds or {})


def test_merged_and_split_usr() -> None:
    merged = plan(MERGED)
    assert MakeLink("/bin", "usr/bin") in merged
    assert BindHost("/bin") not in merged
    assert BindHost("/bin") in plan(SPLIT)


def test_the_workspace_is_the_only_writable_tree_of_the_host() -> None:
    operations = plan(exposed=(ExposedPath("/home/u/tools"),))
    assert sources_of(operations) == (
        AttachSource("/srv/w", "/sandbox", read_only=False),
        AttachSource("/home/u/tools", "/home/u/tools", read_only=True, hidden=()),
    )
    bound = [o.path for o in operations if isinstance(o, BindHost) and not o.devices]
    assert bound == ["/usr"]


def test_private_areas_are_scratch() -> None:
    scratch = [o.path for o in plan() if isinstance(o, MountScratch)]
    assert scratch == ["/dev/shm", "/tmp", "/var", "/run"]
    assert all(o.size == 4096 for o in plan() if isinstance(o, MountScratch))


def test_etc_is_ours_over_the_hosts() -> None:
    operations = plan()
    merge = operations.index(MountEtc())
    for name in etc_files("box", "/bin/bash"):
        file = next(o for o in operations if isinstance(o, MakeFile) and o.path == f"/etc/{name}")
        assert operations.index(file) < merge
    assert operations.index(MakeFile("/etc/shadow")) < merge
    assert operations.index(MakeDirectory("/etc/openshell-tls")) < merge
    assert operations.index(MountTrust("/etc/openshell-tls")) > merge
    assert operations.index(MaskDirectory("/etc/ssh")) > merge


def test_exposed_paths_that_are_there_already_are_left() -> None:
    operations = plan(exposed=(ExposedPath("/usr/local/bin"), ExposedPath("/bin")))
    assert len(sources_of(operations)) == 1


def test_an_exposed_file_gets_a_file_to_lie_on() -> None:
    operations = plan(kinds={"/home/u/tool": False}, exposed=(ExposedPath("/home/u/tool"),))
    assert MakeFile("/home/u/tool") in operations


def test_parents_are_exposed_before_what_lies_in_them() -> None:
    operations = plan(exposed=(ExposedPath("/home/u/a/b"), ExposedPath("/home/u/a")))
    assert [s.path for s in sources_of(operations)][1:] == ["/home/u/a", "/home/u/a/b"]


def test_writable_directories_of_the_policy_exist() -> None:
    operations = plan(read_write=("/tmp", "/data/x/", "/data/x/y", "/usr/local", "/var/lib/z"))
    assert MountScratch("/data/x", 4096, 0o755) in operations
    assert MakeDirectory("/data/x/y") in operations
    assert MountScratch("/data/x/y", 4096, 0o755) not in operations
    assert MakeDirectory("/var/lib/z") in operations
    assert not any(getattr(o, "path", "") == "/usr/local" for o in operations)


def test_a_credential_is_hidden_with_its_directory_and_covered_where_it_is_a_file() -> None:
    operations = plan(
        masks=("/home/u/tools/deep/.netrc", "/home/u/.pypirc", "/home/u/toolsX"),
        exposed=(ExposedPath("/home/u/tools"), ExposedPath("/home/u/.pypirc")),
    )
    attached = {o.path: o.hidden for o in operations if isinstance(o, AttachSource)}
    assert attached["/home/u/tools"] == ("deep/.netrc",)
    assert attached["/home/u/.pypirc"] == ()
    assert attached["/sandbox"] is None, "the agent's own sockets work"
    assert operations[-2:] == (MaskFile("/home/u/.pypirc"), MaskFile("/home/u/toolsX"))


def test_accounts_know_root_and_the_sandbox_only() -> None:
    files = etc_files("box", "/bin/bash")
    names = [line.split(":")[0] for line in files["passwd"].splitlines()]
    assert names == ["root", "sandbox", "nobody"]
    assert "sandbox:x:1000:1000:sandbox:/sandbox:/bin/bash" in files["passwd"]
    assert files["resolv.conf"].startswith("nameserver 10.200.0.1\n")
    assert "box" in files["hosts"]
