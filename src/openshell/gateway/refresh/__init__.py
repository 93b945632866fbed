"""Credentials that the gateway keeps fresh: their stored state, minting new values, the worker."""
