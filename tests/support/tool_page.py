"""What docs/tools.md says of a tool: its policy, and what it prints one rule short of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.private_gateway import PYTHON
from support.upstream import ALIAS

__all__ = ["PAGE", "ToolPolicy", "read_tools"]

PAGE = Path(__file__).parents[2] / "docs/tools.md"


@dataclass(frozen=True)
class ToolPolicy:
    """A section of the page; policies are documents without the file system's part."""

    document: dict[str, Any]
    messages: dict[str, str]

    def whole(self, ports: dict[int, int]) -> str:
        return self._text(ports)

    def short_of(self, what: str, ports: dict[int, int]) -> str:
        match what:
            case "the program":
                return self._text(ports, program="/usr/bin/true")
            case "the host":
                return self._text(ports, host="elsewhere.example.com")
            case "a rule":
                return self._text(ports, rules=slice(0, -1))
        raise AssertionError(what)

    def _text(
        self,
        ports: dict[int, int],
        *,
        host: str = ALIAS,
        program: str | None = None,
        rules: slice = slice(None),
    ) -> str:
        made: dict[str, Any] = {}
        for key, rule in self.document["network_policies"].items():
            endpoints = [
                {**item, "host": host, "port": ports[item["port"]], "rules": item["rules"][rules]}
                for item in rule["endpoints"]
            ]
            for item in endpoints:
                # A list of rules must not be empty: this one allows what no tool asks for.
                item["rules"] = item["rules"] or [{"allow": {"method": "GET", "path": "/nothing"}}]
            paths = [program or _here(item["path"]) for item in rule["binaries"]]
            made[key] = {"endpoints": endpoints, "binaries": [{"path": path} for path in paths]}
        text: str = yaml.safe_dump({"network_policies": made})
        return text


def _here(path: str) -> str:
    return PYTHON if "python" in path else path


def read_tools() -> dict[str, ToolPolicy]:
    """By heading."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        policy = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
        if policy:
            messages = dict(re.findall(r"^\| ([a-z ]+) \| `(.*)` \|$", section, re.MULTILINE))
            found[section.partition("\n")[0]] = ToolPolicy(yaml.safe_load(policy[1]), messages)
    return found
