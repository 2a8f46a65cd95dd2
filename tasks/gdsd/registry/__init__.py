"""The registry of champions: a trained policy comes in; the one that serves, and all that came before, goes out.

It lives in a folder or an object store, and survives writers that race or die. Read `registry` first; `log` has the
changes of the champion, `kept` what is kept as JSON, `store` the folder or object store.
"""
