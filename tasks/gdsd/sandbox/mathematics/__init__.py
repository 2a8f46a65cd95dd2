"""Reads and compares mathematical expressions, inside the worker processes of `guest/math_worker`.

`words` knows units and numbers told in words, `terms` makes SymPy's expressions, `reading` makes what an answer is made
of (sets, intervals, equations, quantities), and `equality` compares two of those. A text is read whole or not at all:
what a grammar here does not know is never dropped.
"""
