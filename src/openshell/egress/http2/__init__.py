"""HTTP/2 on an admitted connection: each stream is a request to policy, as every HTTP/1 request is.

Cores without I/O: `fields` (header lists), `gate` (frames counted before anything keeps them), `shares`
(what all connections of a sandbox may hold). Shells: `peer`, `half`, `far`, `request`, `session`;
`offers` decides which protocol both sides speak. The frames themselves are read and written by the
`h2` library, which `pipeline` has loaded only when a client and its upstream both speak HTTP/2: this
package is imported there, and nothing of it at start.
"""
