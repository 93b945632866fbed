"""HTTP/2 on an admitted connection: each stream is a request to policy, as every HTTP/1 request is.

Cores without I/O: `reader` (frames), `budgets` (what only costs), `streams`, `settings` and `endpoint` (one end
of a connection; `happenings` is what it tells), `fields` (header lists), `shares` (what all connections of a
sandbox may hold). Shells: `peer`, `far` and `session` (connections), `half`, `intake`, `asking`, `scanning` and
`request` (one stream); `offers` decides which protocol both sides speak. Only header compression is a library's.
`pipeline` imports this package when a client and its upstream both speak HTTP/2, and nothing of it at start.
"""
