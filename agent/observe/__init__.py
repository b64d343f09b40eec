"""Log, metrics, traces: one small facade each. Imports only `agent.base`."""
