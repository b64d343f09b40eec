"""What the agent shows of itself: logs and metrics, each behind one small facade that everything else is handed.

Imports nothing of ours but `base`; knows neither objects of the cluster nor jobs.
"""
