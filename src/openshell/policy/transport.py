"""Deny rules for the head of a request, which count whatever protocol the request speaks."""

from __future__ import annotations

from openshell.policy import advice
from openshell.policy.question import Question, Refusal

__all__ = ["transport_denial"]


def transport_denial(question: Question, shown_method: str) -> Refusal | None:
    request = question.request
    method = shown_method.upper()
    for _, rules in question.covering:
        for rule in rules.rest.deny:
            if rule.denies(method, request):
                return Refusal(
                    "deny_rule",
                    f"{shown_method} {request.path} blocked by deny rule",
                    rule.location,
                    advice.lift_deny_rule(rule.location),
                )
    return None
