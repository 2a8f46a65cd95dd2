"""What marks are worth."""


def squared(share: float | None) -> float | None:
    return None if share is None else share**2
