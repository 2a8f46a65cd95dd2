"""A stand-in Flyte backend: it takes what `pyflyte` sends, and runs each task as a process of its own.

    with Backend(root, files, "s3://bucket/prefix", variables, workers=2) as backend:
        subprocess.run(["pyflyte", "-c", backend.config, "run", "--remote", ...])
        backend.execution("name").ended.wait()

| file          | what it does                                                        |
|---------------|---------------------------------------------------------------------|
| `server.py`   | starts and ends everything                                          |
| `admin.py`    | answers the calls of Flyte's clients                                |
| `state.py`    | keeps what was registered, and what became of executions            |
| `engine.py`   | decides what runs next: nodes, dynamic tasks, maps, cache, retries  |
| `literals.py` | hands values from node to node                                      |
| `pods.py`     | runs one attempt at a task, by the command line that was registered |
| `forks.py`    | starts such processes with the libraries imported already           |

It has what this project uses of Flyte, and refuses the rest: no images, no resources, no secrets, no cron, no several
machines. It was written from the sources of flytekit and flyteidl, and was never compared with a real backend.
"""
