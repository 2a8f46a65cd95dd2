"""Stage `evaluate`: a policy and problems come in; numbers with their intervals and the gate's decision go out.

It also compares an approximate engine with the exact one. Read `evaluation` first, then `gate`.
"""
