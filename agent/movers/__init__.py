"""A job as data, the worker process that does it, and its supervisor.

    spec         what a job is and what comes of it
    protocol     messages between supervisor and worker, in frames
    execute      a job done by the engine, wherever this runs
    worker       the worker process: messages in and out around `execute`
    forkserver   a warm process from which workers are forked; `spawner` is its client
    supervisor   what the agent calls: start, watch, cancel, kill, result

    runner       the border for controllers: `supervisor` is one way to do jobs, `pod_runner` another
    pod_runner   a job done by a mover pod, followed over events and its termination message (`pod_follow`)
    stock_pod    the same for pods of a stock agent that were running when ours came
    pod_main     the inside of a mover pod: `pod_worker` around a worker of its own supervisor

Only `pod_*` and `stock_pod` know of Kubernetes; a worker process never does.
"""
