"""Tables of what is equal in mathematics, each line a reference, `==` or `!!`, and an answer."""

from tasks.gdsd.domains.notation import plain
from tasks.gdsd.sandbox.mathematics.equality import equal


def misjudged(table: str) -> list[str]:
    """Returns the lines whose verdict is another one, in the plain form that the domain makes of texts."""
    failed = []
    for line in table.strip().split("\n"):
        right = " == " in line
        reference, answer = line.split(" == " if right else " !! ")
        if equal(plain(reference), plain(answer)) is not right:
            failed.append(line.strip())
    return failed
