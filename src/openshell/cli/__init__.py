"""The `openshell` command: one module per noun, arguments in, one SDK call, one renderer out.

Nothing here knows the wire or the gateway's code. Modules load when their command runs, because
`openshell --help` and `openshell sandbox exec` are called often and must answer fast.
"""
