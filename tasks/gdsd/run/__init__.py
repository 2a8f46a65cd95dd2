"""A run as a whole: the stages' records come in; metrics, costs, concerns, progress and provenance go out.

Read `run_record` first, then `health`.
"""
