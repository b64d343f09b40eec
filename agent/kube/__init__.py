"""The cluster as we see it: typed views of objects, the API behind the `KubeApi` protocol, informer, work queue.

Nothing here decides anything about a backup or a restore. Imports only `agent.base`; controllers and exposers build
on it.
"""
