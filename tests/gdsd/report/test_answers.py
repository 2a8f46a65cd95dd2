"""Which answers the report shows, and how it draws the order in which they were unmasked."""

import re

import pyarrow as pa

from tasks.gdsd import report
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.countdown import CountdownConfig
from tasks.gdsd.report.answers import FRAMES, NUMBERED, TOKENS, frames, section, strip
from tests.gdsd.report.records import answers, cells

DOMAIN = DomainChoice(CountdownConfig())


def test_each_kind_of_change_is_counted_and_shown() -> None:
    """If it fails, a report hides what training has broken. One each is broken and never judged, two are fixed."""
    base = answers(["a0", "a1", "a2", "a3", "a4", "a5"], [0.0, 0.25, 1.0, 0.5, None, 1.0])
    trained = answers(["b0", "b1", "b2", "b3", "b4", "b5"], [1.0, 1.0, 0.75, 0.25, 1.0, 1.0])
    page = section(report.pair_samples(base, trained), DOMAIN)
    assert re.findall(r"<h3>([\w ]+) <span[^>]*>\((\d)", page) == [
        ("Fixed", "2"),
        ("Broken", "1"),
        ("Right both times", "1"),
        ("Wrong both times", "1"),
        ("Not known to be right or wrong", "1"),
    ]
    assert cells(page, "wrong before") == ["1", "2"] and cells(page, "right before") == ["1", "1"]
    assert page.index("problem 0") < page.index("problem 1") < page.index("problem 2"), "the most changed first"


def test_a_verdict_without_a_reward_counts_and_is_shown_as_one() -> None:
    """If it fails, a domain that judges answers, but not every part of the reward, ends a run without its report."""
    judged = answers(["a", "b"], [1.0, 1.0])
    column = judged.column_names.index("reward")
    unrewarded = judged.set_column(column, judged.schema.field("reward"), pa.array([None, 1.0], pa.float32()))
    page = section(report.pair_samples(judged, unrewarded), DOMAIN)
    assert re.findall(r"<h3>([\w ]+) <span[^>]*>\((\d)", page) == [
        ("Right both times", "2"),
    ]
    assert cells(page, "right before") == ["0", "2"]
    unrewarded = unrewarded.take([0])
    page = section(report.pair_samples(judged.take([0]), unrewarded), DOMAIN)
    assert "right, reward 1.00" in page and "right, no reward" in page and "reward 0.00" not in page


def test_a_strip_tells_the_step_of_each_token() -> None:
    """If it fails, the drawn order is not the sampler's. Of 4 steps, 0 is strongest: 9 - 10 * step // 4."""
    drawn = strip(["1", "2", "\n", ""], [3, 0, 1, 2])
    tokens = re.findall(r"<bdi class='t(\d)' title='step (\d)'>(.*?)<sub>(\d)</sub></bdi>", drawn)
    assert tokens == [("2", "4", "1", "4"), ("9", "1", "2", "1"), ("7", "2", "↵", "2"), ("4", "3", "∅", "3")]
    many = strip(["x"] * (NUMBERED + 1), list(range(NUMBERED + 1)))
    assert "<sub>" not in many and "title='step 65'" in many
    assert "and 3 more" in strip(["x"] * (TOKENS + 3), [0] * (TOKENS + 3))


def test_frames_show_what_stood_there_after_a_step() -> None:
    """If it fails, the reader sees tokens before the sampler had them, or not the last step."""
    drawn = re.findall(r"<th scope='row'>(\d+)</th><td><bdi>(.*?)</bdi>", frames(["a", "b", "<", "d"], [5, 0, 0, 2]))
    assert drawn == [("1", "·b&lt;·"), ("3", "·b&lt;d"), ("6", "ab&lt;d")]
    long = re.findall(r"<th scope='row'>(\d+)</th>", frames(["x"] * 200, list(range(200))))
    assert len(long) == FRAMES and long[0] == "1" and long[-1] == "200"
