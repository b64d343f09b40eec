"""The control API of an agent (proto/lighterage/v1): its services, who may call them, and a client for them.

What the services tell and do is asked of others through the protocols of `contract`; nothing here knows controllers.
`server` builds and runs it, `cli` uses the client. `v1` is made from the .proto files when the package is built.
"""
