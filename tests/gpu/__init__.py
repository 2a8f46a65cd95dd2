"""Everything that only a GPU can answer, as one command: `python -m tests.gpu OUT`.

Read `parts` first, which lists the questions, then `__main__`, which asks them, each in a process of its own. Each part
has a file of its name with a function `measure` that yields rows. `scale` says how large everything is: on a GPU, and
in tests on a CPU.
"""
