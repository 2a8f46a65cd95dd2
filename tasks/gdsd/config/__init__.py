"""Configurations: a run's YAML comes in, frozen pydantic models go out, and anything wrong is refused by its path.

Each stage has its model, and a task receives only the part that changes its result. Read `train` first.
"""
