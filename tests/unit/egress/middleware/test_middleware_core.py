"""The core of middleware: which stages a host has, what they see, and which answers count (proxy.md 16)."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.http1 import Length, NoBody, RequestHead
from openshell.egress.middleware import (
    PLATFORM_BODY_LIMIT,
    Answer,
    Evaluation,
    Existing,
    Middlewares,
    Noticed,
    RegexRedaction,
    Remove,
    StageFailed,
    StageFault,
    WorkQueue,
    Write,
    has_body,
)
from openshell.egress.middleware.checking import Changed, apply_answer
from openshell.egress.middleware.fields import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_MUTATIONS,
    mutate,
    visible_fields,
    without_own_fields,
)
from openshell.policy.model import MiddlewareConfig

OWN = "x-openshell-middleware-seen"
MARK = "openshell:resolve:env:TOKEN"
PROTECTED = (
    "Authorization",
    "proxy-authorization",
    "Proxy-Authenticate",
    "Cookie",
    "HOST",
    "Content-Length",
    "Transfer-Encoding",
    "Connection",
    "Proxy-Connection",
    "Keep-Alive",
    "TE",
    "Trailer",
    "Upgrade",
    "Expect",
    "X-Amz-Date",
    "X-OpenShell-Credential-Name",
)


def write(name=OWN, value="yes", existing=Existing.APPEND):
    return Write(name, value, existing)


def head(*headers, framing=None):
    return RequestHead(b"POST", b"/x", b"HTTP/1.1", headers, framing or Length(5))


# -- what a stage sees


@pytest.mark.parametrize("name", PROTECTED)
def test_what_no_stage_sees_or_touches(name):
    headers = ((name.encode(), b"v"), (b"Accept", b"*/*"))
    assert visible_fields(headers) == (("Accept", "*/*"),)
    assert mutate(headers, [Remove(name)]) is StageFault.MUTATION
    assert mutate(headers, [write(name)]) is StageFault.MUTATION


def test_fields_that_connection_names_are_hidden():
    headers = ((b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"), (b"X-End", b"2"))
    assert visible_fields(headers) == (("X-End", "2"),)
    assert mutate(headers, [Remove("x-hop")]) is StageFault.MUTATION


def test_more_fields_than_may_be_shown():
    assert visible_fields(((b"a", b""),) * MAX_FIELDS) is not None
    assert visible_fields(((b"a", b""),) * (MAX_FIELDS + 1)) is None
    assert visible_fields(((b"a", b"x" * (MAX_FIELD_BYTES - 1)),)) is not None
    assert visible_fields(((b"a", b"x" * MAX_FIELD_BYTES),)) is None


def test_a_client_does_not_speak_for_a_stage():
    headers = ((b"X-OpenShell-Middleware-Seen", b"forged"), (b"Accept", b"*/*"))
    assert without_own_fields(headers) == ((b"Accept", b"*/*"),)
    kept = ((b"Accept", b"*/*"),)
    assert without_own_fields(kept) is kept


# -- what it may change

BEFORE = ((b"Accept", b"*/*"), (OWN.encode(), b"old"))


@pytest.mark.parametrize(
    ("mutations", "after"),
    [
        ((), BEFORE),
        ((write(),), (*BEFORE, (OWN.encode(), b"yes"))),
        ((write(existing=Existing.OVERWRITE),), (BEFORE[0], (OWN.encode(), b"yes"))),
        ((write(existing=Existing.SKIP),), BEFORE),
        ((Remove("ACCEPT"),), BEFORE[1:]),
        ((Remove("absent"),), BEFORE),
        ((Remove(OWN), write(existing=Existing.SKIP)), (BEFORE[0], (OWN.encode(), b"yes"))),
    ],
    ids=["nothing", "append", "overwrite", "skip", "remove", "remove nothing", "in order"],
)
def test_changes(mutations, after):
    assert mutate(BEFORE, mutations) == after


@pytest.mark.parametrize(
    "bad",
    [
        None,
        write("Accept"),
        write(existing=None),
        write(f"{OWN}:"),
        write(f"{OWN}\r\nHost"),
        write(f"{OWN}é"),
        write("x-openshell-middleware-" + "a" * 300),
        write(value="a\r\nHost: evil"),
        write(value="a\nb"),
        write(value="a\0"),
        write(value=" led"),
        write(value="é"),
        write(value=f"Bearer {MARK}"),
        write(value="x" * (32 * 1024 + 1)),
        Remove(""),
    ],
    ids=repr,
)
def test_one_wrong_change_undoes_all(bad):
    assert mutate(BEFORE, [Remove("accept"), bad]) is StageFault.MUTATION


def test_how_many_changes():
    assert mutate(BEFORE, [Remove("a")] * MAX_MUTATIONS) == BEFORE
    assert mutate(BEFORE, [Remove("a")] * (MAX_MUTATIONS + 1)) is StageFault.MUTATION
    large = write(value="x" * (32 * 1024))
    assert mutate(BEFORE, [large, large]) is not StageFault.MUTATION
    assert mutate(BEFORE, [large, large, write(value="x")]) is StageFault.MUTATION


texts = st.one_of(st.text(max_size=12), st.sampled_from(["Host", OWN, "a\r\nb", MARK]))


@given(
    mutations=st.lists(
        st.one_of(
            st.none(),
            st.builds(Remove, texts),
            st.builds(Write, texts, texts, st.one_of(st.none(), st.sampled_from(Existing))),
        ),
        max_size=5,
    )
)
def test_whatever_a_stage_asks_for(mutations):
    before = ((b"Host", b"a"), (b"Cookie", b"c"), (b"Accept", b"*/*"))
    after = mutate(before, mutations)
    if after is StageFault.MUTATION:
        return
    assert after[:2] == before[:2]
    for name, value in after:
        assert (name, value) in before or name.lower().startswith(b"x-openshell-middleware-")
        assert not {13, 10, 0} & {*name, *value}
        assert MARK.encode() not in value


# -- which answers count


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(None), StageFault.DECISION),
        (Answer(True, reason="x" * 4097), StageFault.REASON),
        (Answer(True, reason_code="Upper"), StageFault.REASON),
        (Answer(True, reason_code="a" * 65), StageFault.REASON),
        (Answer(True, noticed=(Noticed("k"),) * 33), StageFault.FINDING),
        (Answer(True, noticed=(Noticed(""),)), StageFault.FINDING),
        (Answer(True, noticed=(Noticed("k", "x" * 4096),)), StageFault.FINDING),
        (Answer(True, noticed=(Noticed("k", count=-1),)), StageFault.FINDING),
        (Answer(True, noticed=(Noticed("k", count=2**32),)), StageFault.FINDING),
        (Answer(True, noticed=(Noticed("k", MARK),)), StageFault.FINDING),
        (Answer(True, metadata={str(n): "" for n in range(65)}), StageFault.METADATA),
        (Answer(True, metadata={"a": "x" * 32 * 1024}), StageFault.METADATA),
        (Answer(True, mutations=(None,)), StageFault.MUTATION),
        (Answer(True, body=b"x" * 11), StageFault.BODY_SIZE),
    ],
    ids=lambda value: value.value if isinstance(value, StageFault) else "",
)
def test_answers_that_do_not_count(answer, fault):
    assert apply_answer(answer, head(), b"hello", 10) is fault


def test_an_answer_that_changes_nothing_gives_the_same_objects():
    before, body = head((b"Digest", b"d")), b"hello"
    for answer in (Answer(True), Answer(True, body=b"hello")):
        after = apply_answer(answer, before, body, 10)
        assert after.head is before
        assert after.body is body


def test_a_new_body_takes_what_was_said_of_the_old_one_away():
    names = (b"Digest", b"Content-MD5", b"content-digest", b"Repr-Digest", b"Accept")
    after = apply_answer(Answer(True, body=b"new"), head(*((n, b"v") for n in names)), b"old", 10)
    assert isinstance(after, Changed)
    assert (after.body, after.head.headers) == (b"new", ((b"Accept", b"v"),))


def test_what_carries_no_body_gets_none():
    without = head(framing=NoBody())
    assert apply_answer(Answer(True, body=b"x"), without, None, 10) is StageFault.BODY
    assert apply_answer(Answer(True, body=b""), without, None, 10).body is None
    assert [has_body(head(framing=f)) for f in (NoBody(), Length(0), Length(1))] == [
        False,
        False,
        True,
    ]


# -- which stages a host has


class Stage:
    seconds = 0.5

    def __init__(self, body_limit=100):
        self.body_limit = body_limit

    async def evaluate(self, evaluation):
        return Answer(True)


def config(key, *, order=0, include=("*.example.com",), exclude=(), on_error="fail_closed", **more):
    return MiddlewareConfig(
        key=key,
        middleware=more.pop("middleware", "known"),
        order=order,
        include=include,
        exclude=exclude,
        on_error=on_error,
        **more,
    )


def chains(*configs, known=None):
    return Middlewares({c.key: c for c in configs}, known or {"known": Stage()})


def keys(middlewares, host):
    chain = middlewares.chain_for(host)
    return None if chain is None else [stage.key for stage in chain.stages]


def test_stages_run_by_order_and_then_by_name():
    made = chains(config("b", order=2), config("c", order=1), config("a", order=2))
    assert keys(made, "api.example.com") == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("host", "selected"),
    [
        ("api.example.com", True),
        ("API.Example.COM", True),
        ("api.example.com.", True),
        ("not.example.com", False),
        ("example.org", False),
    ],
)
def test_hosts_that_are_selected(host, selected):
    made = chains(config("a", exclude=("not.example.com",)))
    for _ in range(2):
        assert keys(made, host) == (["a"] if selected else None)


def test_a_stage_that_is_not_there_fails_and_is_never_left_out():
    chain = chains(config("a", middleware="unknown")).chain_for("api.example.com")
    with pytest.raises(StageFailed) as failed:
        asyncio.run(chain.stages[0].implementation.evaluate(None))
    assert failed.value.fault is StageFault.SERVICE
    assert chain.must_see


def test_only_a_chain_that_fails_open_as_a_whole_need_not_see():
    opens = config("a", on_error="fail_open")
    assert not chains(opens).chain_for("x.example.com").must_see
    assert chains(opens, config("b", order=1)).chain_for("x.example.com").must_see


def test_the_smallest_limit_of_a_body_counts():
    stages = {"known": Stage(50), "large": Stage(1 << 40)}
    both = chains(config("a"), config("b", order=1, middleware="large"), known=stages)
    assert both.chain_for("x.example.com").body_limit == 50
    alone = chains(config("b", middleware="large"), known=stages)
    assert alone.chain_for("x.example.com").body_limit == PLATFORM_BODY_LIMIT


# -- the built-in one


def evaluation(body, *headers):
    return Evaluation("id", "POST", "https", "h", 443, "/", "", headers, body, {})


@pytest.mark.parametrize(
    ("body", "after", "count"),
    [
        (b"", None, 0),
        (b"nothing", None, 0),
        (b"sk-" + b"a" * 15, None, 0),
        (b"a sk-" + b"a" * 16 + b" b", b"a [REDACTED] b", 1),
        (b"sk-" + b"aB3_-" * 5 + b",sk-" + b"c" * 20, b"[REDACTED],[REDACTED]", 2),
        ("é sk-".encode() + b"a" * 16, "é [REDACTED]".encode(), 1),
    ],
    ids=["empty", "none", "too short", "one", "two", "not ASCII"],
)
async def test_keys_are_redacted(body, after, count):
    answer = await RegexRedaction().evaluate(evaluation(body))
    assert answer.allow
    assert answer.body == after
    assert [(n.kind, n.count, n.severity) for n in answer.noticed] == (
        [("regex.openai", count, "medium")] if count else []
    )


@pytest.mark.parametrize(
    "asked",
    [evaluation(b"\xff"), evaluation(b"x", ("Content-Encoding", "identity, gzip"))],
    ids=["no text", "compressed"],
)
async def test_what_cannot_be_read_is_a_failure_and_no_pass(asked):
    with pytest.raises(StageFailed) as failed:
        await RegexRedaction().evaluate(asked)
    assert failed.value.fault is StageFault.CONTENT


# -- places


async def test_places_are_bounded_and_given_back():
    queue = WorkQueue(seconds=30)
    assert all([await queue.enter() for _ in range(32)])
    waiting = [asyncio.ensure_future(queue.enter()) for _ in range(64)]
    await asyncio.sleep(0)
    assert not await queue.enter()
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    for _ in range(63):
        queue.leave()
    assert all(await asyncio.gather(*waiting[1:]))


async def test_a_place_that_does_not_come():
    queue = WorkQueue(seconds=0.01)
    for _ in range(32):
        await queue.enter()
    assert not await queue.enter()
    queue.leave()
    assert await queue.enter()
