"""The cluster as we see it: typed views of objects, and how they are written.

Nothing here decides anything about a backup or a restore. Imports only `agent.base`; controllers and exposers build
on it.
"""
