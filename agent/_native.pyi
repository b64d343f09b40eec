"""Compiled inner loops of the data path (sources in `agent/native/`)."""
