"""Shared by tests and benchmarks: real gateways and real upstreams, each in a place of its own."""
