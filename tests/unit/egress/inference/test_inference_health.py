"""Which targets of a route are asked first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.inference.health import Health
from openshell.egress.inference.limits import COOL_SECONDS, MAX_COOL_SECONDS
from openshell.egress.inference.routes import Route, Routes


def route(model, name="inference.local", kind="openai", key="k", **more):
    protocols = more.get("protocols", ("openai_chat_completions", "model_discovery"))
    return Route.read(
        name=name,
        base_url="https://models.example/v1",
        protocols=protocols,
        key=key,
        model=model,
        provider_type=kind,
        timeout_secs=0,
        model_in_path=False,
        path_override=None,
    )


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


A, B, C = route("a"), route("b"), route("c")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return Health(clock)


def models(routes):
    return "".join(route.model for route in routes)


def test_what_failed_is_asked_last_until_it_has_cooled(health, clock):
    assert models(health.order((A, B, C))) == "abc"
    health.failed(A)
    assert models(health.order((A, B, C))) == "bca"
    clock.now += COOL_SECONDS
    assert models(health.order((A, B, C))) == "abc", "one request tries it"
    assert models(health.order((A, B, C))) == "bca", "the others do not wait for that trial"
    health.worked(A)
    assert models(health.order((A, B, C))) == "abc"


def test_it_cools_longer_each_time_but_not_for_ever(health, clock):
    for number in range(40):
        health.failed(A)
        wanted = min(COOL_SECONDS * 2**number, MAX_COOL_SECONDS)
        clock.now += wanted - 0.01
        assert models(health.order((A, B))) == "ba"
        clock.now += 0.01
        assert models(health.order((A, B))) == "ab"


def test_a_route_without_another_target_is_always_asked(health):
    health.failed(A)
    assert models(health.order((A,))) == "a"


def test_a_key_that_was_replaced_is_tried_at_once(health):
    health.failed(A)
    assert health.order((route("a", key="new"), B))[0].key == "new"


@given(st.lists(st.sampled_from("ABC0123"), max_size=30))
def test_no_target_is_ever_lost(happenings):
    clock = Clock()
    health, targets = Health(clock), (A, B, C)
    for happening in happenings:
        if happening in "ABC":
            health.failed(targets["ABC".index(happening)])
        else:
            clock.now += 10 * int(happening)
        assert sorted(models(health.order(targets))) == ["a", "b", "c"]


ROUTES = Routes(
    "1",
    (
        A,
        B,
        route("fast-1", "fast"),
        route("claude", "smart", "anthropic", protocols=("anthropic_messages",)),
        route("hidden", "sandbox-system"),
    ),
)
CHAT = "openai_chat_completions"


@pytest.mark.parametrize(
    ("protocol", "model", "found"),
    [
        (CHAT, None, "ab"),
        (CHAT, "gpt-x", "ab"),
        (CHAT, "fast", "fast-1"),
        (CHAT, "Fast", "ab"),
        (CHAT, "fast-1", "ab"),
        (CHAT, "smart", ""),
        ("anthropic_messages", "smart", "claude"),
        ("anthropic_messages", "any", ""),
        (CHAT, "sandbox-system", "ab"),
        (CHAT, "inference.local", "ab"),
        ("model_discovery", None, "a"),
    ],
)
def test_the_model_that_is_asked_for_chooses_the_route(protocol, model, found):
    assert models(ROUTES.find(protocol, model)) == found
