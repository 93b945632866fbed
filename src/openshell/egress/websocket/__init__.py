"""WebSocket as the proxy sees it: the handshake of both sides, and the frames that a client sends.

No I/O. `handshake` decides what may be asked and answered, `frames` follows the client's frames,
`deflate` looks into compressed messages, `messages` gathers text for policy and credentials. What the
server sends is copied as it comes.
"""
