"""The files of /etc that a sandbox gets instead of the host's.

Pure. Accounts, names and resolver belong to the sandbox; secrets of the host are replaced by
empty files. Everything else of /etc is the host's, read-only (rootfs.py merges the two).
"""

from __future__ import annotations

from openshell.supervisor.isolation.model import INNER_GID, INNER_UID, WORKSPACE
from openshell.supervisor.isolation.network import PROXY_ADDRESS
from openshell.supervisor.skill import SKILL

__all__ = [
    "MASKED_DIRECTORIES",
    "MASKED_FILES",
    "OWN_DIRECTORY",
    "OWN_FILES",
    "etc_files",
]

# Ours alone: the host's directory of that name (a gateway's settings) is not seen.
OWN_DIRECTORY = "/etc/openshell"
OWN_FILES = (
    ("skills/policy_advisor.md", SKILL),
    ("skills/policy-advisor/SKILL.md", SKILL),
)

# Replaced by an empty file where the host has them. An ordinary user could not read most of them
# anyway; the mask holds for those who were made readable by mistake.
MASKED_FILES = (
    "shadow",
    "shadow-",
    "gshadow",
    "gshadow-",
    "passwd-",
    "group-",
    "subuid",
    "subgid",
    "sudoers",
    "krb5.keytab",
    "machine-id",
    "netrc",
)
# Hidden whole: an empty read-only file system over each that exists.
MASKED_DIRECTORIES = (
    "NetworkManager",
    "docker",
    "kubernetes",
    "letsencrypt",
    "openvpn",
    "rancher",
    "ssh",
    "ssl/private",
    "sudoers.d",
    "wireguard",
)


def etc_files(hostname: str, shell: str) -> dict[str, str]:
    """Return name -> content of the generated files."""
    return {
        "passwd": (
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            f"sandbox:x:{INNER_UID}:{INNER_GID}:sandbox:{WORKSPACE}:{shell}\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "group": f"root:x:0:\nsandbox:x:{INNER_GID}:\nnogroup:x:65534:\n",
        "hosts": (
            f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {hostname}\n"
        ),
        "hostname": f"{hostname}\n",
        "resolv.conf": f"nameserver {PROXY_ADDRESS}\noptions timeout:2 attempts:2 edns0\n",
        "nsswitch.conf": (
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
            "networks: files\nprotocols: files\nservices: files\n"
        ),
    }
