"""`inference.local`: models for programs that hold no key.

Cores without I/O: `patterns` (which requests are served), `routes` (where they go), `rewriting` (what
is sent), `answers` (what a client is told, in its own dialect), `usage` (tokens in answers). Shells:
`door` (a client connection), `call` (one request), `relaying` (its answer). The routes come with the
generation; the supervisor makes them from what the gateway sends.
"""
