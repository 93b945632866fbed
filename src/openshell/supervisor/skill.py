"""What an agent is told about proposing changes to its policy; a file inside every sandbox.

The file is always there and says itself that it may not apply: whether proposals are taken is asked of
`policy.local`, which knows the setting as it is now. Laid out by `isolation.etc`.
"""

from typing import Final

__all__ = ["SKILL"]

SKILL: Final = """\
---
name: policy-advisor
description: Read why a request was refused in this sandbox and propose the narrowest change of policy.
---
# Proposing a change of policy

This sandbox lets programs reach only what its policy names. A refused request answers 403 with a JSON body
that says why. You cannot change the policy yourself. You can propose a rule; a person decides about it, and
nothing is allowed before.

If `http://policy.local` answers 404 with `feature_disabled`, proposals are off: stop here and ask the person.

All of it is plain HTTP on port 80, answered inside the sandbox; no key is needed.

    curl -s http://policy.local/v1/policy/current        # the policy in force, as YAML in JSON
    curl -s 'http://policy.local/v1/denials?last=5'      # the last refusals, newest first

## Propose

    curl -s -X POST http://policy.local/v1/proposals -H 'Content-Type: application/json' -d '{
      "intent_summary": "Read release notes to answer the question about version 2",
      "operations": [{"addRule": {
        "ruleName": "release_notes",
        "rule": {
          "endpoints": [{
            "host": "api.example.com", "port": 443,
            "protocol": "rest", "enforcement": "enforce",
            "rules": [{"allow": {"method": "GET", "path": "/v2/releases/*"}}]
          }],
          "binaries": [{"path": "/usr/bin/curl"}]
        }}}]}'

The answer is 202 with `accepted_chunk_ids`: keep them. `rejection_reasons` say what the gateway refused at
once; correct that and propose again. 400 `invalid_proposal` says what is wrong with the body.

Make it as narrow as the task allows:
- the exact host, never a wildcard; the exact port; the program that was refused, by its full path
  (`binary` in the 403, or in the line of the refusal);
- `protocol: rest` with the methods and the smallest path you need. A rule without a protocol is raw access:
  it is refused where credentials are used, and a person will seldom agree to it;
- one rule for one purpose, with an `intent_summary` that a person can judge;
- no secrets, tokens or query strings in a path: what you write is stored and read by people;
- never loopback, link-local or cloud metadata hosts: no policy can open them.

## Wait

    curl -s 'http://policy.local/v1/proposals/ID/wait?timeout=300'

| answer | meaning | what to do |
|---|---|---|
| `status: approved`, `policy_reloaded: true` | the rule is in force here | send the refused request again |
| `status: approved`, `policy_reloaded: false` | approved, not in force yet | call `wait` again |
| `status: rejected` | `rejection_reason` says why | follow it: narrow the rule or go another way; do not widen it, do not send it again unchanged |
| `status: rejected`, reason begins with `covered by` | the policy has it now | send the refused request again |
| `timed_out: true` | nobody has decided yet | call `wait` again, or go on with other work |

A proposal for the same host, port and program replaces the one before it. Proposals may also be decided by
the gateway itself; that is set by a person and nothing you can ask for.
"""
