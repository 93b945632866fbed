"""Commands about inference routes, against a scripted service."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import openshell
from openshell._proto import inference_pb2 as pb
from openshell._proto import inference_pb2_grpc, openshell_ext_inference_pb2_grpc
from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell.cli.main import run


class Routes(inference_pb2_grpc.InferenceServicer):
    """Keeps routes by name; `failing` is how every call ends."""

    def __init__(self):
        self.routes = {}
        self.sets = []
        self.failing = None
        self.keeps_fallbacks = True

    def _take(self, request, context):
        if self.failing:
            context.abort(*self.failing)
        return request.route_name or "inference.local"

    def SetInferenceRoute(self, request, context):
        name = self._take(request, context)
        self.sets.append(request)
        version = self.routes[name][1] + 1 if name in self.routes else 1
        self.routes[name] = request, version
        tried = [pb.ValidatedEndpoint(url="https://m.example/v1/x", protocol="some_protocol")]
        return pb.SetInferenceRouteResponse(
            provider_name=request.provider_name,
            model_id=request.model_id,
            version=version,
            route_name=name,
            validation_performed=not request.no_verify,
            validated_endpoints=[] if request.no_verify else tried,
            timeout_secs=request.timeout_secs,
            workspace=request.workspace,
            fallbacks=request.fallbacks if self.keeps_fallbacks else (),
        )

    def GetInferenceRoute(self, request, context):
        name = self._take(request, context)
        if name not in self.routes:
            context.abort(grpc.StatusCode.NOT_FOUND, f"inference route '{name}' is not configured")
        stored, version = self.routes[name]
        return pb.GetInferenceRouteResponse(
            provider_name=stored.provider_name,
            model_id=stored.model_id,
            version=version,
            route_name=name,
            timeout_secs=stored.timeout_secs,
            workspace=request.workspace,
            fallbacks=stored.fallbacks,
        )

    def DeleteInferenceRoute(self, request, context):
        name = self._take(request, context)
        return pb.DeleteInferenceRouteResponse(deleted=self.routes.pop(name, None) is not None)


class Listed(openshell_ext_inference_pb2_grpc.InferenceRoutesServicer):
    """Names of what the other service keeps."""

    def __init__(self, service):
        self.service = service

    def List(self, request, context):
        return ext.ListInferenceRoutesResponse(
            routes=[ext.ListedInferenceRoute(route_name=name) for name in self.service.routes]
        )


@pytest.fixture
def routes(monkeypatch, tmp_path):
    server = grpc.server(ThreadPoolExecutor(2))
    service = Routes()
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server)
    openshell_ext_inference_pb2_grpc.add_InferenceRoutesServicer_to_server(Listed(service), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    service.endpoint = f"127.0.0.1:{port}"
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("OPENSHELL_GATEWAY_ENDPOINT", f"http://{service.endpoint}")
    for name in ("OPENSHELL_GATEWAY", "OPENSHELL_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    yield service
    server.stop(None)


SET = ["inference", "set", "--provider", "p", "--model", "m"]


def test_set_prints_what_is_in_force(routes, capsys):
    assert run(SET) == 0
    assert capsys.readouterr().out == (
        "Inference route set:\n"
        "  Workspace: default\n"
        "  Route: inference.local\n"
        "  Provider: p\n"
        "  Model: m\n"
        "  Version: 1\n"
        "  Timeout: 60s (default)\n"
        "  Validated: https://m.example/v1/x (some_protocol)\n"
    )
    (sent,) = routes.sets
    assert (sent.route_name, sent.no_verify, sent.timeout_secs) == ("", False, 0)


def test_set_the_systems_route_untried(routes, capsys):
    assert run([*SET, "--system", "--no-verify", "--timeout", "90"]) == 0
    out = capsys.readouterr().out
    assert "Route: sandbox-system" in out
    assert "Timeout: 90s\n" in out
    assert "Validated: no, as you said" in out


@pytest.mark.parametrize("missing", ["--provider", "--model"])
def test_set_needs_both(routes, capsys, missing):
    at = SET.index(missing)
    assert run(SET[:at] + SET[at + 2 :]) == 2
    assert routes.sets == []
    assert missing in capsys.readouterr().err


def test_update_keeps_the_rest(routes, capsys):
    assert run([*SET, "--timeout", "90"]) == 0
    assert run(["inference", "update", "--model", "next"]) == 0
    assert run(["inference", "update", "--timeout", "0"]) == 0
    sent = [(s.provider_name, s.model_id, s.timeout_secs) for s in routes.sets]
    assert sent == [("p", "m", 90), ("p", "next", 90), ("p", "next", 0)]
    capsys.readouterr()
    assert run(["inference", "update"]) == 1
    assert "nothing to change" in capsys.readouterr().err
    assert run(["inference", "update", "--system", "--model", "x"]) == 1
    assert capsys.readouterr().err == (
        "Error: inference route 'sandbox-system' is not configured\n"
    )


def test_get_shows_both(routes, capsys):
    assert run(["inference", "get"]) == 0
    assert capsys.readouterr().out == (
        "Inference route:\n  Not configured\nSystem inference route:\n  Not configured\n"
    )
    run([*SET, "--system"])
    capsys.readouterr()
    assert run(["inference", "get"]) == 0
    out = capsys.readouterr().out
    assert "Inference route:\n  Not configured\n" in out
    assert "System inference route:\n  Workspace: default\n" in out
    assert run(["inference", "get", "--system"]) == 0


def test_get_of_the_systems_route_that_is_missing(routes, capsys):
    assert run(["inference", "get", "--system"]) == 1
    assert "is not configured" in capsys.readouterr().err


def test_get_shows_other_failures_in_place(routes, capsys):
    routes.failing = grpc.StatusCode.PERMISSION_DENIED, "not for you"
    assert run(["inference", "get"]) == 0
    assert capsys.readouterr().out.count("  Error: not for you\n") == 2


def test_delete_of_nothing_is_a_note(routes, capsys):
    run(SET)
    capsys.readouterr()
    assert run(["inference", "delete"]) == 0
    assert capsys.readouterr().out == "Inference route deleted.\n"
    assert run(["inference", "delete"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing to delete" in err


def test_a_failure_is_said_in_the_gateways_words_alone(routes, capsys):
    routes.failing = grpc.StatusCode.FAILED_PRECONDITION, "the route does not work"
    assert run(SET) == 1
    assert capsys.readouterr().err == "Error: the route does not work\n"


def test_the_library(routes):
    assert {"InferenceRouteClient", "InferenceRouteConfig"} <= set(openshell.__all__)
    with openshell.SandboxClient(routes.endpoint) as client:
        made = openshell.InferenceRouteClient.from_sandbox_client(client)
        wanted = openshell.InferenceRouteConfig("p", "m", 1)
        assert made.set_route(workspace="w", provider_name="p", model_id="m") == wanted
        assert made.get_route(workspace="w") == wanted
        assert made.delete_route(workspace="w")
        assert not made.delete_route(workspace="w")
        with pytest.raises(grpc.RpcError):
            made.get_route(workspace="w")
    assert routes.sets[0].workspace == "w"


def test_a_route_with_a_name_and_fallbacks(routes, capsys):
    assert (
        run([*SET[:2], "fast", *SET[2:], "--fallback", "q=vendor/m2", "--fallback", "r=x=y"]) == 0
    )
    out = capsys.readouterr().out
    assert "  Route: fast\n  Provider: p\n  Model: m\n  Fallback: q=vendor/m2\n" in out
    sent = [(target.provider_name, target.model_id) for target in routes.sets[0].fallbacks]
    assert sent == [("q", "vendor/m2"), ("r", "x=y")]
    assert run(["inference", "update", "fast", "--timeout", "9"]) == 0
    assert [target.provider_name for target in routes.sets[1].fallbacks] == ["q", "r"]
    assert run(["inference", "get"]) == 0
    assert "Inference route 'fast':\n" in capsys.readouterr().out
    assert run(["inference", "update", "fast", "--no-fallback"]) == 0
    assert not routes.sets[2].fallbacks
    assert run(["inference", "delete", "fast"]) == 0
    assert "Inference route 'fast' deleted." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--fallback", "p"], "PROVIDER=MODEL"),
        (["--fallback", "=m"], "PROVIDER=MODEL"),
        (["name", "--system"], "takes no name"),
    ],
    ids=["no model", "no provider", "two names"],
)
def test_what_cannot_be_meant(routes, capsys, more, said):
    assert run([*SET, *more]) == 1
    assert said in capsys.readouterr().err
    assert routes.sets == []


def test_a_gateway_that_drops_fallbacks_is_found_out(routes, capsys):
    routes.keeps_fallbacks = False
    assert run([*SET, "--fallback", "q=m"]) == 1
    assert "this gateway keeps no fallbacks" in capsys.readouterr().err
