"""When a run stops before its last round."""

from tasks.gdsd.evaluate import stopping
from tests.gdsd.series import validation


def test_a_run_stops_after_validations_that_are_no_better() -> None:
    """If it fails, a run goes on for nothing, or ends while it still improves."""
    rising = [validation(1, 0.1), validation(2, 0.2), validation(3, 0.2, gained=0.6)]  # the reward breaks ties
    assert stopping.fruitless(rising) == 0 and not stopping.has_stopped(rising, 1)
    fallen = [*rising, validation(4, 0.1), validation(5, 0.2, gained=0.6)]  # equal to the best is not better
    assert stopping.fruitless(fallen) == 2
    assert [stopping.has_stopped(fallen, patience) for patience in (1, 2, 3, None)] == [True, True, False, False]
    assert stopping.fruitless([*fallen, validation(6, 0.3)]) == 0
    assert stopping.fruitless([]) == 0 and not stopping.has_stopped([], 1)
