"""The public record as a driver sees it."""

import pytest

from openshell._proto import openshell_pb2 as pb
from openshell.drivers.base import DriverError, DriverErrorCode
from openshell.gateway.driver_view import driver_error, driver_sandbox
from openshell.gateway.errors import ApiError, Code


def view(fill=None, **spec):
    sandbox = pb.Sandbox(spec=pb.SandboxSpec(**spec))
    sandbox.metadata.id = "id"
    if fill is not None:
        fill(sandbox.spec.template)
    return driver_sandbox(sandbox, "local", endpoint="unix:/s")


def test_plain_fields():
    seen = view(command=["a"], tty=True, environment={"A": "1"}, log_level="debug")
    assert (seen.id, seen.command, seen.tty, seen.endpoint) == ("id", ("a",), True, "unix:/s")
    assert (dict(seen.environment), seen.log_level) == ({"A": "1"}, "debug")
    assert (seen.token, seen.initial_config) == ("", b"")


def test_the_sandboxs_environment_wins_over_the_templates():
    def fill(template):
        template.environment.update({"A": "template", "B": "2"})

    assert view(fill, environment={"A": "1"}).environment == {"A": "1", "B": "2"}


def test_resources_are_split():
    def fill(template):
        template.resources.update(
            {
                "limits": {"cpu": "2", "memory": "1Gi", "x/gpu": 1},
                "requests": {"cpu": "500m"},
                "claims": [1.5],
            }
        )

    seen = view(fill)
    assert (seen.resources.cpu_limit, seen.resources.memory_limit) == ("2", "1Gi")
    assert seen.resources.cpu_request == "500m"
    assert seen.platform_config == {"resources_raw": {"limits": {"x/gpu": 1}, "claims": [1.5]}}


def test_platform_settings():
    def fill(template):
        template.runtime_class_name = "kata"
        template.annotations["a"] = "b"
        template.user_namespaces = True

    assert view(fill).platform_config == {
        "runtime_class_name": "kata",
        "annotations": {"a": "b"},
        "host_users": False,
    }


def test_only_its_own_section_reaches_the_driver():
    def fill(template):
        template.driver_config.update({"local": {"n": 3, "l": ["a"]}, "docker": "anything"})

    assert view(fill).driver_config == {"n": 3, "l": ["a"]}


def test_a_section_is_an_object():
    with pytest.raises(ApiError, match=r"driver_config\.local must be an object"):
        view(lambda template: template.driver_config.update({"local": "x"}))


def test_gpu():
    assert view().resources.gpu == 0
    one = pb.ResourceRequirements(gpu=pb.GpuResourceRequirements())
    assert view(resource_requirements=one).resources.gpu == 1


@pytest.mark.parametrize("code", list(DriverErrorCode))
def test_every_driver_error_has_a_status(code):
    error = driver_error(DriverError(code, "why"))
    assert error.code is Code[code.name]
    assert error.message == "why"
