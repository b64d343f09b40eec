"""`make bench`: Lighterage beside kopia and restic on the same data, in one run, with the same sampler.

Within a row the tools take turns; a row is repeated five times, or three when a round takes longer than 30 seconds.
Every finished round is appended to a results file, so an interrupted run goes on where it was. `report.py` makes the
table of `docs/benchmarks.md` from that file and from nothing else.
"""
