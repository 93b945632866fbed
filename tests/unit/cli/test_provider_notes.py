"""What is said of an attached provider whose profile does nothing yet."""

import grpc
import pytest

from openshell._proto import datamodel_pb2, sandbox_pb2
from openshell.cli.main import run
from support.scripted_gateway import profile

SAYS = "mine's endpoints are not reachable yet: profiles are switched off"
SWITCH = "openshell settings set --global --key providers_v2_enabled --value on"


@pytest.fixture
def attached(scripted, capsys):
    scripted.profiles["work"] = profile(1)
    scripted.providers["mine"] = datamodel_pb2.Provider(type="work", profile_workspace="default")

    def attach():
        assert run(["sandbox", "provider", "attach", "box", "mine"]) == 0
        out, err = capsys.readouterr()
        assert out == "Attached provider mine to sandbox box\n"
        return err

    return attach


def allow(scripted, host):
    rule = scripted.config.policy.network_policies["r"]
    rule.endpoints.add(host=host, ports=[443])


def test_a_profile_that_counts_for_nothing(attached):
    err = attached()
    assert SAYS in err
    assert SWITCH in err


@pytest.mark.parametrize(
    "arrange",
    [
        pytest.param(lambda it: setattr(it, "v2", True), id="switched on"),
        pytest.param(lambda it: allow(it, "A.example"), id="a rule names the host"),
        pytest.param(lambda it: allow(it, "*.example"), id="a rule covers the host"),
        pytest.param(lambda it: it.profiles.clear(), id="no profile"),
        pytest.param(lambda it: it.profiles.update(work=profile(1, hosts=())), id="no endpoints"),
        pytest.param(
            lambda it: setattr(it.config, "policy_source", sandbox_pb2.POLICY_SOURCE_GLOBAL),
            id="global policy",
        ),
        pytest.param(
            lambda it: it.failing.update(GetGatewayConfig=(grpc.StatusCode.PERMISSION_DENIED, "")),
            id="may not look",
        ),
    ],
)
def test_nothing_to_say(scripted, attached, arrange):
    assert SAYS in attached(), "the probe works"
    arrange(scripted)
    assert attached() == ""


def test_another_host_is_no_way_in(scripted, attached):
    allow(scripted, "b.example")
    assert SAYS in attached()
