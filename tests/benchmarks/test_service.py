"""The traffic of a service's day, and what is measured of a program that answers it."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from stages.benchmarks.service import follow, traffic
from stages.common import tables
from stages.common.errors import UserError
from stages.serving.lines import parse
from tests.small_log import all_behaviors, sft_adapter

LINES, PEOPLE, HISTORY = 4000, 40, 10


def day(**changes):
    settings = {"lines": LINES, "people": PEOPLE, "bad": 0.05, "ask": 5, "history": HISTORY, "behaviors": ["a", "b"],
                "seed": 0}
    return list(traffic(**settings | changes))


def test_everybody_has_a_whole_history_before_the_first_question_and_their_lines_are_in_order():
    known, latest = Counter(), {}
    for line, answered in day(bad=0):
        found = parse(line)
        assert answered == (found.behavior is None)
        assert found.time >= latest.get(found.user, "")
        latest[found.user] = found.time
        if answered:
            assert known[found.user] >= HISTORY
        else:
            known[found.user] += 1
    assert len(known) == PEOPLE


def test_a_share_of_lines_is_bad_and_every_one_is_refused():
    lines = day()
    refused = 0
    for line, answered in lines:
        try:
            parse(line)
            refused += b"1899" in line  # refused later, by its time
        except UserError:
            refused += 1
            assert answered
    assert refused / LINES == pytest.approx(0.05, abs=0.015)


PROGRAM = """
import json, sys
for number, line in enumerate(sys.stdin.buffer, 1):
    try:
        found = json.loads(line)
        if "time" in found and "behavior" not in found:
            print(json.dumps({"line": number + SHIFT, "predictions": []}), flush=True)
        elif "behavior" not in found:
            raise ValueError
    except ValueError:
        print(json.dumps({"line": number, "error": ""}), flush=True)
"""


def test_what_a_program_takes_is_measured_from_line_to_answer():
    lines = [(json.dumps({"time": "x"} | ({} if n % 2 else {"behavior": "a"})).encode() + b"\n", bool(n % 2))
             for n in range(200)] + [(b"{\n", True)]
    found = follow([sys.executable, "-c", PROGRAM.replace("SHIFT", "0")], iter(lines))
    assert (found["lines"], found["answers"], found["errors"], found["status"]) == (201, 100, 1, 0)
    assert found["peak MB"] > 1 and found["p99 ms, last tenth"] > 0
    with pytest.raises(UserError, match="line 2: answered with"):
        follow([sys.executable, "-c", PROGRAM.replace("SHIFT", "1")], iter(lines))


def test_the_command_leads_a_day_of_its_own_size_through_predict(tiny_base, tmp_path):
    vocabulary = tmp_path / "vocabulary.parquet"
    tables.write(all_behaviors(), "vocabulary", vocabulary)
    model = sft_adapter(tiny_base, tmp_path / "sft")
    done = subprocess.run(
        [sys.executable, "-m", "stages.benchmarks.service", "--model", model, "--vocabulary", vocabulary, "--lines",
         "80", "--people", "2", "--bad", "0.2", "--ask", "2", "--seed", "1", "--", "--order-only", "--top", "1"],
        capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    expected = list(traffic(80, 2, 0.2, 2, 20, all_behaviors()["behavior"].to_list(), 1))
    bad = sum(not line.startswith(b'{"user": "person') for line, _ in expected)
    assert (found["lines"], found["errors"], found["status"]) == (80, bad, 0) and bad > 5
    assert found["answers"] == sum(answered for _, answered in expected) - bad > 5
