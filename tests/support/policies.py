"""Small policies that tests of the gateway share."""

OPEN = """
version: 1
network_policies:
  web:
    endpoints:
      - {host: api.example.com, port: 443, protocol: rest, enforcement: enforce, access: read-only}
    binaries: [{path: /usr/bin/curl}]
"""

FULL = OPEN.replace("read-only", "full")

BOUND = """
version: 1
network_policies:
  web:
    endpoints:
      - host: api.example.com
        port: 443
        path: /v1/**
        protocol: rest
        enforcement: enforce
        access: full
        credential_binding: {provider: work}
    binaries: [{path: /usr/bin/curl}]
"""
