"""The flags of `policy update` as operations: the grammar of CLI spec 7.2, row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.cli.failures import CliError
from openshell.cli.policy_operations import Flags, default_rule_name, operations_of
from openshell.policy.merge import (
    AddAllowRules,
    AddDenyRules,
    AddRule,
    RemoveEndpoint,
    RemoveRule,
)
from openshell.policy.model import Binary, Endpoint, L7Rule


def endpoint_of(text):
    (operation,) = operations_of(Flags(add_endpoints=[text], binaries=["/x"]))
    assert isinstance(operation, AddRule)
    (endpoint,) = operation.rule.endpoints
    return endpoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a.b:443", {}, id="host and port"),
        pytest.param(
            "a.b:443:read-only:rest",
            {"access": "read-only", "protocol": "rest"},
            id="protocol",
        ),
        pytest.param(
            "a.b:443:read-write:websocket:enforce",
            {"access": "read-write", "protocol": "websocket", "enforcement": "enforce"},
            id="enforcement",
        ),
        pytest.param("a.b:443:full", {"access": "full"}, id="access"),
        pytest.param("a.b:443::tcp", {"protocol": "tcp"}, id="tcp without access"),
        pytest.param("a.b:443:full:", {"access": "full"}, id="empty protocol"),
        pytest.param("a.b:443::sql:audit", {"protocol": "sql", "enforcement": "audit"}, id="sql"),
        pytest.param(
            "a.b:443::::allow-uninspected-credentials",
            {"allow_uninspected_credentials": True},
            id="options without protocol",
        ),
        pytest.param(
            "a.b:443:full:rest:enforce:websocket-credential-rewrite,"
            "request-body-credential-rewrite,allowed-ip=10.0.0.0/8,allowed-ip=10.1.2.3",
            {
                "access": "full",
                "protocol": "rest",
                "enforcement": "enforce",
                "websocket_credential_rewrite": True,
                "request_body_credential_rewrite": True,
                "allowed_ips": ("10.0.0.0/8", "10.1.2.3"),
            },
            id="every option",
        ),
        pytest.param(
            "a.b:443:full:websocket::websocket-credential-rewrite",
            {"access": "full", "protocol": "websocket", "websocket_credential_rewrite": True},
            id="rewrite on websocket",
        ),
    ],
)
def test_an_endpoint(text, expected):
    assert endpoint_of(text) == Endpoint(host="a.b", ports=(443,), **expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a.b", "write host:port[", id="one segment"),
        pytest.param("a:1:::::x", "write host:port[", id="seven segments"),
        pytest.param("::1:443", "the host is", id="IPv6 literal"),
        pytest.param(":443", "the host is", id="no host"),
        pytest.param("a b:443", "the host is", id="space in host"),
        pytest.param("http://a:443", "the host is|the port is", id="a URL"),
        pytest.param("a/b:443", "the host is", id="slash in host"),
        pytest.param("a.b:", "1 to 65535", id="no port"),
        pytest.param("a.b:0", "1 to 65535", id="port 0"),
        pytest.param("a.b:65536", "1 to 65535", id="port too large"),
        pytest.param("a.b:+443", "1 to 65535", id="signed port"),
        pytest.param("a.b:٤٤", "1 to 65535", id="digits of another script"),
        pytest.param("a.b:443:", "the access is empty", id="empty access last"),
        pytest.param("a.b:443:write", "the access is one of read-only", id="unknown access"),
        pytest.param("a.b:443:full:mcp", "the protocol is one of", id="unknown protocol"),
        pytest.param("a.b:443:full:rest:block", "the enforcement is one of", id="enforcement"),
        pytest.param(
            "a.b:443:read-only",
            "an access needs a protocol: a.b:443:read-only:rest:enforce",
            id="access",
        ),
        pytest.param("a.b:443:read-write::audit", "a.b:443:read-write:rest:audit", id="both"),
        pytest.param("a.b:443:full::enforce", "needs a protocol", id="enforcement without"),
        pytest.param("a.b:443:full:tcp", "tcp takes neither", id="tcp with access"),
        pytest.param("a.b:443::tcp:audit", "tcp takes neither", id="tcp with enforcement"),
        pytest.param("a.b:443:full:rest:audit:", "the options are empty", id="empty options"),
        pytest.param("a.b:443::::x", "unknown option 'x'", id="unknown option"),
        pytest.param(
            "a.b:443::::websocket-credential-rewrite", "needs protocol rest or", id="rewrite on L4"
        ),
        pytest.param(
            "a.b:443:full:websocket::request-body-credential-rewrite",
            "needs protocol rest",
            id="body rewrite on websocket",
        ),
        pytest.param("a.b:443::::allowed-ip=", "takes an IP address", id="empty allowed-ip"),
        pytest.param("a.b:443::::allowed-ip=host", "takes an IP address", id="named allowed-ip"),
        pytest.param("a.b:443::::allowed-ip=fd00::/8", "write host:port", id="IPv6 allowed-ip"),
    ],
)
def test_an_endpoint_is_refused(text, says):
    with pytest.raises(CliError, match="--add-endpoint") as refused:
        endpoint_of(text)
    assert any(part in str(refused.value) for part in says.split("|"))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.github.com", "allow_api_github_com_443"),
        ("*.my-host.example", "allow__my_host_example_443"),
        ("a_b", "allow_a_b_443"),
    ],
)
def test_the_generated_name(host, name):
    assert default_rule_name(host, 443) == name


def test_a_rule_has_its_name_and_each_binary_once():
    flags = Flags(add_endpoints=["a.b:1"], binaries=["/x", "/y", "/x"], rule_name="mine")
    (operation,) = operations_of(flags)
    assert (operation.rule_name, operation.rule.key) == ("mine", "mine")
    assert operation.rule.binaries == (Binary("/x"), Binary("/y"))
    both = operations_of(Flags(add_endpoints=["a.b:1", "c.d:2"], binaries=["/x"]))
    assert [item.rule_name for item in both] == ["allow_a_b_1", "allow_c_d_2"]
    assert all(item.rule.binaries == (Binary("/x"),) for item in both)


def test_the_order_and_the_groups():
    operations = operations_of(
        Flags(
            add_endpoints=["a.b:1", "c.d:2"],
            remove_endpoints=["e.f:3"],
            binaries=["/x"],
            remove_rules=["gone"],
            add_allows=["a.b:1:get:/x", "c.d:2:*:**", "A.b:1:POST:/y:z"],
            add_denies=["a.b:1:delete:**/all"],
        )
    )
    assert operations[2:] == (
        RemoveEndpoint("e.f", 3),
        RemoveRule("gone"),
        AddAllowRules(
            "a.b", 1, (L7Rule(method="GET", path="/x"), L7Rule(method="POST", path="/y:z"))
        ),
        AddAllowRules("c.d", 2, (L7Rule(method="*", path="**"),)),
        AddDenyRules("a.b", 1, (L7Rule(method="DELETE", path="**/all"),)),
    )
    assert [type(item) for item in operations[:2]] == [AddRule, AddRule]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param(Flags(), "nothing to change", id="nothing"),
        pytest.param(Flags(remove_rules=["x"], binaries=["/x"]), "--add-endpoint too", id="binary"),
        pytest.param(Flags(add_endpoints=["a:1"]), "needs --binary.*--binary '/", id="no binary"),
        pytest.param(Flags(add_endpoints=["a:1"], binaries=[" "]), "must not be empty", id="blank"),
        pytest.param(Flags(remove_rules=["x"], rule_name="x"), "exactly one", id="name alone"),
        pytest.param(
            Flags(add_endpoints=["a:1", "b:1"], rule_name="x"), "exactly one", id="name of two"
        ),
        pytest.param(Flags(add_endpoints=["a:1"], rule_name=""), "must not be empty", id="no name"),
        pytest.param(Flags(remove_endpoints=["a"]), "write host:port", id="remove without port"),
        pytest.param(Flags(remove_endpoints=["a:1:x"]), "write host:port", id="remove too much"),
        pytest.param(Flags(remove_rules=[" "]), "must not be empty", id="remove nothing"),
        pytest.param(Flags(add_allows=["a:1:GET"]), "host:port:METHOD:path", id="no path"),
        pytest.param(Flags(add_allows=["a:1::/x"]), "method is empty", id="no method"),
        pytest.param(Flags(add_allows=["a:1:GET:x"]), "path starts with", id="relative path"),
        pytest.param(Flags(add_denies=["a:1:GET:*"]), "path starts with", id="one star"),
        pytest.param(Flags(add_denies=["a:x:GET:/"]), "1 to 65535", id="no number"),
    ],
)
def test_flags_are_refused(flags, says):
    with pytest.raises(CliError, match=f"(?s){says}"):
        operations_of(flags)


_WORDS = st.sampled_from(
    [
        "a.b",
        "443",
        "0",
        "full",
        "rest",
        "tcp",
        "enforce",
        "",
        ":",
        "allowed-ip=1.2.3.4",
        "GET",
        "/x",
    ]
)
_TEXTS = st.lists(st.one_of(_WORDS, st.text(max_size=5)), max_size=8).map(":".join)


@given(_TEXTS, st.sampled_from(["add_endpoints", "remove_endpoints", "add_allows", "add_denies"]))
def test_any_text_is_operations_or_one_sentence(text, flag):
    try:
        binaries = ["/x"] if flag == "add_endpoints" else []
        operations = operations_of(Flags(**{flag: [text]}, binaries=binaries))
    except CliError as refused:
        assert refused.code == 1
        assert "--" in str(refused)
        return
    (operation,) = operations
    places = (
        [(e.host, e.ports[0]) for e in operation.rule.endpoints]
        if isinstance(operation, AddRule)
        else [(operation.host, operation.port)]
    )
    assert all(host and 1 <= port <= 65535 for host, port in places)
