"""The data plane of a sandbox: every connection of the agent goes through here.

`proxy.EgressProxy` is the front door. Nothing is imported here, so that a core can be used alone.
"""
