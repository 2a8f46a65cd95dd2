"""What the tests of code answers share."""

import pytest

from tasks.gdsd.domains.code import Code, CodeConfig
from tasks.gdsd.sandbox import levels


@pytest.fixture
def code() -> Code:
    """The domain at the strongest level that this system offers."""
    offered = [level for level in levels.LEVELS if levels.offered(level)[0]]
    if not offered:
        pytest.skip("this system runs no code answers")
    return Code(CodeConfig(isolation=offered[0]))
