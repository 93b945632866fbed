"""Who calls the gateway and what they may do.

`principal` says who, `tokens` keeps the identities of sandboxes, `authentication` finds the caller
of one call, `authorization` decides by the rules written on the methods, and `interceptor` is the
only part that touches gRPC. Nothing here reads the store: whether a sandbox still exists is a
function given by the gateway.
"""
