"""From an object of the cluster to a job: where its repository is, with which secrets, and what its source is called.

Here: backup storage locations, their credentials and certificates, the repository's password, names and tags of
snapshots (contract §5). Not here: when a job is done (`controllers`), and how (`movers`).
"""
