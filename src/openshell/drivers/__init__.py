"""Compute drivers: where sandboxes run.

A driver starts and ends supervisors and tells what it sees; it knows neither the store nor policies
nor who may do what. Every driver implements `base.ComputeDriver`; what the gateway needs to know
about one it asks through that interface, never by name.
"""
