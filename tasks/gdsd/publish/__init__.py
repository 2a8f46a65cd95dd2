"""Stage `publish`: a run's folder comes in, and its numbers and policy go out to trackers and to the model hub.

Read `trackers/base` first, then `hub`.
"""
