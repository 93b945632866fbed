"""Files between here and a sandbox: `FilesClient` for programs, the parts below for the command line.

`placement` says where things go, `trees` what is here and there, `local` writes here without following
anything that a sandbox could have prepared, `remote` is the other end, `transfer` carries. asyncssh is loaded by
`remote` alone.
"""
