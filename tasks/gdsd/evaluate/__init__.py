"""Stage `evaluate`: a policy and problems come in, numbers with their intervals and the gate's decision go out.

It also judges an approximate engine against the exact one. Read `evaluation` first, then `gate`.
"""
