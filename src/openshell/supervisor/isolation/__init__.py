"""How a sandbox is shut in: one recipe for root and ordinary users.

Front door: `launch.prepare` once in the zygote, `launch.start` once per supervisor, types in
`model`, failures in `errors`. Inside, `init` is process 1 and the other modules are its tools.
Imported by the supervisor alone; nothing here knows policy, gateway or egress.
"""
