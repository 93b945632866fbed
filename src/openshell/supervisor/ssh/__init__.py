"""The SSH server of a sandbox: sessions, ports and files for OpenSSH and its relatives.

It runs in the supervisor, outside of the sandbox, and is reached over relays only: there is no port and
no socket that a program inside could connect to. `library` loads asyncssh at the first connection;
nothing else of the product imports it.
"""
