"""What runs beside hostile input, and all that a sandbox sees of this project.

`start` is the script. `launch` gives up what it may not keep, then `answer` or `tester` serves the host. They import
only the standard library and one another, since each answer waits for them. `math_worker` is a script of its own, which
stays for many answers and compares them by the folder `mathematics` beside this one.
"""
