"""The daemon: everything is built here, handed to what needs it, started, watched and ended.

Here: flags and configuration of the agent, its self-test, signs of life, events, the HTTP endpoints, signals. Not here:
any decision about an object (`controllers`). Called by `cli` only.
"""
