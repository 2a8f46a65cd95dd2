"""A reward of one's own for the stand-in, which needs a file beside its own."""

from own_marks import squared

from tasks.gdsd.domains.base import Verdict
from tasks.gdsd.domains.sudoku import Sudoku


class Squared(Sudoku):
    """Sudoku, where a few right cells are worth little."""

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        verdict = super().verify(problem, reference, answer)
        return Verdict({**verdict.parts, "cells": squared(verdict.parts["cells"])}, verdict.solved)
