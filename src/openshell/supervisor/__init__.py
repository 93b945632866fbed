"""The supervisor: one process per sandbox, outside of it.

It isolates the agent, starts and watches its processes, runs the egress proxy in front of them and
speaks with the gateway. It never imports the gateway, and nothing imports it: it is started by
module name, or forked from the zygote. What is here trusts the gateway for configuration and
nothing that comes from inside.
"""
