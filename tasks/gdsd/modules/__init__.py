"""Modules as files: what a Python source says, and which sources of a person's own a module reaches.

Nothing is imported to know it. Read `syntax` first, then `own`.
"""
