"""Providers, their profiles and what a sandbox may do with them: pure, no I/O, no secret values.

`profile` reads and judges profile documents, `records` what clients write of a provider, `catalogue`
says which profile a provider's type means. A `situation` is one sandbox with all that it has attached;
`fitness` says what is wrong with it and what policy it makes, `environment` plans what its supervisor
is handed. Reading situations, writing rows and keeping values is the gateway's part.
"""
