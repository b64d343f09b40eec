"""Snapshots of volumes: upload against a parent, restore, verify, browse, policies, retention. No Kubernetes here."""
