"""Keys of a profile document that nothing reads."""

import json

import pytest

from openshell.providers.profile.document import local_findings
from unit.profile.profile_samples import EVERY_KEY

TEXT = """\
id: a
display_name: A
credential: []
credentials:
  - name: c
    envvars: [X]
    refresh: {strategy: oauth2-client-credentials, materials: []}
endpoints:
  - host: h
    enforcment: enforce
    rules:
      - allow: {method: GET, paths: /x}
        deny: {}
    mcp:
      strict: true
binaries: [/usr/bin/curl, {path: /x, sha: 1}]
"""


def findings(text, form="yaml"):
    return local_findings(text, source="f", format=form)


def test_each_is_told_where_it_stands():
    assert [(f.line, f.field, f.message) for f in findings(TEXT)] == [
        (3, "credential", "unknown key 'credential' is ignored; did you mean 'credentials'?"),
        (
            6,
            "credentials[0].envvars",
            "unknown key 'envvars' is ignored; did you mean 'env_vars'?",
        ),
        (
            7,
            "credentials[0].refresh.materials",
            "unknown key 'materials' is ignored; did you mean 'material'?",
        ),
        (
            10,
            "endpoints[0].enforcment",
            "unknown key 'enforcment' is ignored; did you mean 'enforcement'?",
        ),
        (
            12,
            "endpoints[0].rules[0].allow.paths",
            "unknown key 'paths' is ignored; did you mean 'path'?",
        ),
        (13, "endpoints[0].rules[0].deny", "unknown key 'deny' is ignored"),
        (
            15,
            "endpoints[0].mcp.strict",
            "unknown key 'strict' is ignored",
        ),
        (16, "binaries[1].sha", "unknown key 'sha' is ignored"),
    ]
    assert not any(finding.is_error for finding in findings(TEXT))


def test_a_document_with_every_key_has_none():
    assert findings(EVERY_KEY) == ()


@pytest.mark.parametrize("indent", [2, "\t"], ids=["spaces", "tabs"])
def test_json(indent):
    text = json.dumps({"id": "a", "nme": "ü 😀"}, indent=indent, ensure_ascii=False)
    (finding,) = findings(text, "json")
    assert (finding.field, finding.line) == ("nme", 3)


def test_of_many_only_some_are_told():
    document = {"id": "a", **{f"x{i}": i for i in range(1000)}}
    found = findings(json.dumps(document))
    assert found[0].field == "x0"
    assert len(found) < 60


def test_a_long_key_is_cut():
    (finding,) = findings(json.dumps({"y" * 2000: 1}), "json")
    assert len(finding.message) + len(finding.field) < 200
    assert finding.line == 0, "YAML has no such keys"
