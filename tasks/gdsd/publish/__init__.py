"""Stage `publish`: a run's folder comes in, and what leaves it goes to trackers and to the model hub.

Read `trackers/base` first, then `hub`.
"""
