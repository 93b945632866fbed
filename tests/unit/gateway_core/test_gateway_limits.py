"""What clients may send: each limit at its edge, accepted and refused."""

import pytest

from openshell._proto import openshell_pb2 as pb
from openshell.gateway import limits
from openshell.gateway.errors import ApiError, Code


def refused(call, *args):
    with pytest.raises(ApiError) as caught:
        call(*args)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 19, "a1-2b"])
def test_names_accepted(name):
    limits.check_name("name", name)


@pytest.mark.parametrize("name", ["", "a" * 20, "-a", "a-", "a--b", "A", "a_b", "a.b", "ä", "a\n"])
def test_names_refused(name):
    assert "name" in refused(limits.check_name, "name", name)


@pytest.mark.parametrize(
    ("key", "value"),
    [("a", ""), ("a.b/c-d", "v"), ("x" * 63, "v" * 63), ("A_1", "A.b-C_d")],
)
def test_labels_accepted(key, value):
    limits.check_labels("labels", {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "v"), ("x" * 64, "v"), ("a/", "v"), ("/a", "v"), ("A/b", "v"), ("a..b/c", "v"),
        ("-a", "v"), ("a", "v" * 64), ("a", "-v"), ("a", "v v"), ("a/b/c", "v"), ("a" * 250 + "/bcd", "v"),
    ],
)  # fmt: skip
def test_labels_refused(key, value):
    refused(limits.check_labels, "labels", {key: value})


def create(**spec):
    return pb.CreateSandboxRequest(spec=pb.SandboxSpec(**spec))


ACCEPTED = {
    "largest command": create(command=["x"] * 256),
    "newline in argument": create(command=["a\nb"]),
    "largest environment": create(environment={f"K{i}": "" for i in range(128)}),
    "longest value": create(environment={"K": "v" * 8192}),
    "providers": create(providers=[f"p{i}" for i in range(32)]),
    "log level": create(log_level="x" * 32),
    "nothing": create(),
}
REFUSED = {
    "too many arguments": create(command=["x"] * 257),
    "empty program": create(command=["", "a"]),
    "long argument": create(command=["x", "a" * 32769]),
    "NUL": create(command=["a\0b"]),
    "command in all": create(command=["a" * 30_000] * 9),
    "too many variables": create(environment={f"K{i}": "" for i in range(129)}),
    "bad variable": create(environment={"1K": ""}),
    "reserved variable": create(environment={"OPENSHELL_X": ""}),
    "line break in value": create(environment={"K": "a\nb"}),
    "long value": create(environment={"K": "v" * 8193}),
    "environment in all": create(environment={f"K{i}": "v" * 8192 for i in range(33)}),
    "template environment": create(template=pb.SandboxTemplate(environment={"K": "\0"})),
    "image": create(template=pb.SandboxTemplate(image="x" * 1025)),
    "template labels": create(template=pb.SandboxTemplate(labels={"k": "v" * 8193})),
    "providers": create(providers=[f"p{i}" for i in range(33)]),
    "provider twice": create(providers=["p", "p"]),
    "provider name": create(providers=["p" * 254]),
    "log level": create(log_level="x" * 33),
    "gpu": create(
        resource_requirements=pb.ResourceRequirements(gpu=pb.GpuResourceRequirements(count=0))
    ),
    "annotation": pb.CreateSandboxRequest(spec=pb.SandboxSpec(), annotations={"k": "v" * 8193}),
    "name": pb.CreateSandboxRequest(spec=pb.SandboxSpec(), name="a" * 20),
}


@pytest.mark.parametrize("request_", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_create_accepted(request_):
    limits.check_create(request_)


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED.keys())
def test_create_refused(request_):
    refused(limits.check_create, request_)


def exec_(**more):
    return pb.ExecSandboxRequest(**{"sandbox_id": "s", "command": ["true"], **more})


EXEC_REFUSED = {
    "no sandbox": exec_(sandbox_id=""),
    "no command": exec_(command=[]),
    "arguments": exec_(command=["x"] * 1025),
    "argument": exec_(command=["x" * 32769]),
    "NUL": exec_(command=["x\0"]),
    "variable": exec_(environment={"a-b": "v"}),
    "reserved": exec_(environment={"OPENSHELL_TOKEN": "v"}),
    "value": exec_(environment={"A": "v" * 32769}),
    "line": exec_(environment={"A": "v\r"}),
    "workdir": exec_(workdir="/" * 4097),
    "workdir line": exec_(workdir="/a\n"),
}


def test_exec_accepted():
    limits.check_exec(
        exec_(environment={"OPENSHELL_PYFUNC_B64": "x"}, workdir="/tmp", command=["a\nb"])
    )


@pytest.mark.parametrize("request_", EXEC_REFUSED.values(), ids=EXEC_REFUSED.keys())
def test_exec_refused(request_):
    refused(limits.check_exec, request_)


def test_texts_never_hold_the_value():
    text = refused(limits.check_create, create(environment={"K": "topsecret\n"}))
    assert "topsecret" not in text
