"""An SFTP server (version 3) that needs nothing from the image it serves. Standard library only.

Runs inside the sandbox as a fork of process 1, with the identity and the restrictions of every program
there: what the agent cannot touch, it cannot either. `packets` is the format, `files` what requests do,
`serve` the loop. The format is that of draft-ietf-secsh-filexfer-02 with OpenSSH's extensions
(openssh-portable, PROTOCOL, section 4).
"""
