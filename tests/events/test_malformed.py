"""Malformed logs: no traceback, no row lost, no value changed, and messages that say where and what.

Ten thousand of them: `python -m tests.events.malformed_check --logs 10000`.
"""

import pytest

from tests.events.malformed import malformed
from tests.events.malformed_check import check
from tests.events.malformed_reference import expected

LOGS, AT_ONCE = 100, 50


@pytest.mark.parametrize("first", range(0, LOGS, AT_ONCE))
def test_malformed_logs_are_read_as_the_reference_reads_them(tmp_path, monkeypatch, first):
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    faults = {seed: wrong for seed in range(first, first + AT_ONCE) if (wrong := check(seed, tmp_path)[1])}
    assert not faults


def test_the_generator_is_seeded_and_the_reference_knows_many_of_its_logs():
    assert [malformed(7) for _ in range(2)] == [malformed(7)] * 2
    known = [seed for seed in range(100) if expected(malformed(seed)) is not None]
    assert len(known) > 40
