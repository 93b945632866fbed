"""The only place that turns policy and profile types into protobuf messages and back.

Conversions only: no judging, no I/O. One module for each kind of value.
"""
