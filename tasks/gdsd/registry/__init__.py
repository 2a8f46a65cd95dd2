"""The registry: promoted policies come in; the champion, which is in use, and all earlier ones go out.

It lives in a folder or an object store, and survives writers that race or die. Read `registry` first. `log` has the
changes of the champion, `nights` how each night ended, `evaluations` what champions reached later, `condition` what is
lost or damaged, `kept` what is kept as JSON, and `store` the folder or object store.
"""
