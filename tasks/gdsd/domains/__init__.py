"""The kinds of problem a policy can be trained on, by name. One file each; adding one is a file and a line here."""

from tasks.gdsd.domains.base import Domain, Verdict
from tasks.gdsd.domains.sudoku import Sudoku

DOMAINS: dict[str, Domain] = {"sudoku": Sudoku()}

__all__ = ["DOMAINS", "Domain", "Verdict"]
