"""What request bodies say to policy: GraphQL, JSON-RPC and MCP, read from whole, bounded bodies.

No I/O. Each module turns bytes into a value of `openshell.policy.messages`; what the bytes get wrong
is a value too (`error`), and the policy refuses it.
"""
