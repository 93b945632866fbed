"""Provider records and what a sandbox may do with them: pure, no I/O, no protobuf, no secret values.

`records` checks and merges what clients write, `types` resolves aliases, `env_keys` decides which
provider owns an environment variable, `bindings` ties credentials to policy endpoints and
`environment` plans what a supervisor is handed. Values themselves live in the credential store of
the gateway; profiles are not built yet.
"""
