"""A job as data, the worker process that does it, and its supervisor.

    spec         what a job is and what comes of it
    protocol     messages between supervisor and worker, in frames
    execute      a job done by the engine, wherever this runs
    worker       the worker process: messages in and out around `execute`
    forkserver   a warm process from which workers are forked; `spawner` is its client
    supervisor   what the agent calls: start, watch, cancel, kill, result

Nothing here knows of Kubernetes. The agent's controllers call `supervisor`; a mover pod calls `worker.run_job` with a
link of its own.
"""
