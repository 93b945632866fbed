"""The one event of a request that goes out, whichever version of HTTP carries it.

Refusals are recorded by `refusing`. Called by `exchange` and `http2.request`.
"""

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.events import l7_labels
from openshell.egress.judging import Judged
from openshell.policy.decide import RequestAudited, word_of

__all__ = ["record_allowed"]


def record_allowed(services: Services, connection: ClientConnection, judged: Judged) -> None:
    where, decision = judged.where, judged.decision
    if judged.unseen is not None:
        services.log.unseen(connection.actor, where.place, judged.unseen.value)
    word = word_of(decision, upgrade=judged.switch is not None)
    detail = decision.reason if isinstance(decision, RequestAudited) else ""
    if judged.route.configs:
        engine, name = l7_labels(decision.config)
        message = f"{name} {word} {where.method} {where.place}{where.path}"
        if detail:
            message = f"{message} reason={detail}"
    else:
        engine = "opa"
        message = f"HTTP_REQUEST {where.method} {where.place}{where.path}"
    services.log.request_allowed(
        connection.actor, where, decision.policy, engine=engine, message=message, detail=detail
    )
