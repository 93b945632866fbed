"""Stages of middleware that do what a test tells them, and policies that attach them."""

import asyncio
import json

from openshell.egress.middleware import Answer, Existing, Noticed, StageFailed, StageFault, Write

ALLOW = Answer(allow=True)


class Scripted:
    """Answers with what `script` makes of each evaluation; keeps all that it saw."""

    def __init__(self, script=lambda seen: ALLOW, *, body_limit=1 << 20, seconds=2.0):
        self.script = script
        self.body_limit = body_limit
        self.seconds = seconds
        self.seen = []

    async def evaluate(self, evaluation):
        self.seen.append(evaluation)
        answer = self.script(evaluation)
        return await answer if asyncio.iscoroutine(answer) else answer


def replacing(old, new):
    return lambda seen: Answer(allow=True, body=seen.body.replace(old, new))


def writing(value="yes", name="X-OpenShell-Middleware-Seen", existing=Existing.OVERWRITE):
    return lambda seen: Answer(allow=True, mutations=(Write(name, value, existing),))


def denying(code="too_secret", reason="the body said: hunter2"):
    noticed = (Noticed("test.secret", "a secret", 1, "high", "high"),)
    return lambda seen: Answer(allow=False, reason=reason, reason_code=code, noticed=noticed)


def failing(fault=StageFault.SERVICE):
    def fail(seen):
        raise StageFailed(fault)

    return fail


def crashing(seen):
    raise RuntimeError("hunter2")


async def hanging(seen):
    await asyncio.sleep(60)


def staged(policy, *stages):
    """Add attachments: (name, extra keys), in order."""
    document = json.loads(policy)
    document["network_middlewares"] = {
        f"at-{name}": {
            "name": f"shown-{name}",
            "middleware": name,
            "order": order,
            "endpoints": {"include": ["**"]},
            **extra,
        }
        for order, (name, extra) in enumerate(stages)
    }
    return json.dumps(document)


OPEN = {"on_error": "fail_open"}
CLOSED = {"on_error": "fail_closed"}
