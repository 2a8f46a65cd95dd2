"""Stage `prompts`: a domain and data files come in, tables of training and test problems go out.

Every table is checked for errors and for test problems that training has seen. Read `problems` first.
"""
