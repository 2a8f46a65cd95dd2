"""Stage `prompts`: a domain and data files come in, and tables of training, validation and test problems go out.

Every table is checked for errors, and for test problems that training sees. Read `problems` first, then `quality`.
"""
