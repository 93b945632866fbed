"""One GraphQL document: which operation it asks for, and the names of its root fields.

Tokens are counted and nesting is measured before graphql-core parses, so that its recursion and its
time are bounded whatever a client sends. Imported by `graphql` when the first document arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from graphql import GraphQLError
from graphql.language import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    Lexer,
    OperationDefinitionNode,
    SelectionSetNode,
    Source,
    TokenKind,
    parse,
)

from openshell.egress.bodies.strict_json import MAX_DEPTH
from openshell.egress.bodies.tokens import MAX_TOKENS, Tokens
from openshell.policy.messages import GraphqlCall

__all__ = ["DocumentRejected", "operation_of"]

_OPENING: Final = (TokenKind.BRACE_L, TokenKind.PAREN_L, TokenKind.BRACKET_L)
_CLOSING: Final = (TokenKind.BRACE_R, TokenKind.PAREN_R, TokenKind.BRACKET_R)


class DocumentRejected(Exception):
    """What is wrong with the document, in words that quote nothing of it."""


def operation_of(query: str, name: str, tokens: Tokens) -> GraphqlCall:
    definitions = _definitions(query, tokens)
    operations = [d for d in definitions if isinstance(d, OperationDefinitionNode)]
    fragments = {d.name.value: d for d in definitions if isinstance(d, FragmentDefinitionNode)}
    chosen = _chosen(operations, name)
    fields = _root_fields(chosen.selection_set, fragments)
    if not fields:
        raise DocumentRejected("the operation asks for no field")
    shown = chosen.name.value if chosen.name is not None else ""
    return GraphqlCall(chosen.operation.value, shown, tuple(sorted(fields)))


def _chosen(operations: Sequence[OperationDefinitionNode], name: str) -> OperationDefinitionNode:
    if not operations:
        raise DocumentRejected("the document has no operation")
    if not name:
        if len(operations) > 1:
            raise DocumentRejected("several operations without operationName")
        return operations[0]
    named = [o for o in operations if o.name is not None and o.name.value == name]
    if not named:
        raise DocumentRejected("operationName names no operation of the document")
    if len(named) > 1:
        raise DocumentRejected("operationName names more than one operation")
    return named[0]


def _definitions(query: str, tokens: Tokens) -> Sequence[Any]:
    # Comments are no tokens to the lexer, and cost as much.
    tokens.left -= query.count("#")
    if tokens.left < 0:
        raise DocumentRejected(f"the request has more than {MAX_TOKENS} comments")
    source = Source(query)
    try:
        if not tokens.covers(query):
            _count(source, tokens)
        return parse(source, no_location=True).definitions
    except (GraphQLError, RecursionError, ValueError) as error:
        # The parser's own words quote the document.
        raise DocumentRejected("the document cannot be parsed") from error


def _count(source: Source, tokens: Tokens) -> None:
    depth = 0
    lexer = Lexer(source)
    while (token := lexer.advance()).kind is not TokenKind.EOF:
        tokens.left -= 1
        if tokens.left < 0:
            raise DocumentRejected(f"the request has more than {MAX_TOKENS} tokens")
        if token.kind in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                raise DocumentRejected(f"the document is nested deeper than {MAX_DEPTH}")
        elif token.kind in _CLOSING:
            depth -= 1


def _root_fields(
    root: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode]
) -> set[str]:
    """Names of the fields at the top, behind fragments too; each fragment is looked into once."""
    fields: set[str] = set()
    seen: set[str] = set()
    pending: list[Iterable[Any]] = [root.selections]
    while pending:
        for selection in pending.pop():
            if isinstance(selection, FieldNode):
                fields.add(selection.name.value)
            elif isinstance(selection, InlineFragmentNode):
                pending.append(selection.selection_set.selections)
            elif isinstance(selection, FragmentSpreadNode) and selection.name.value not in seen:
                seen.add(selection.name.value)
                fragment = fragments.get(selection.name.value)
                if fragment is not None:
                    pending.append(fragment.selection_set.selections)
    return fields
