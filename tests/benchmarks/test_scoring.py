import numpy as np
import pytest
import torch

from stages.benchmarks import scoring
from stages.model.likelihood import score
from stages.model.load import load_merged

pytest.importorskip("lm_eval", reason="the baseline is not installed: pip install -e '.[benchmark]'")


def test_both_sides_score_the_same_candidates(inputs):
    asked, answers = scoring.windows(inputs, 3), inputs.stream.answers
    row = scoring.exactness(inputs, asked, batch=4)
    assert row.reached and 0 < row.ours[0] <= 1e-3, "equal to the last bit would mean that one was compared with itself"
    baseline = torch.tensor(scoring.baseline_sums(load_merged(inputs.model), inputs, asked, 2)).log_softmax(-1)
    ours = score(load_merged(inputs.model), asked, answers).log_p
    np.testing.assert_allclose(ours, baseline.numpy(), atol=1e-4, rtol=0)
    wrong = score(load_merged(inputs.model), asked, answers[::-1]).log_p
    assert np.abs(wrong - baseline.numpy()).max() > 1e-3


def test_lm_eval_would_cut_the_text_as_we_do(inputs):
    assert scoring.cut_alike(inputs, scoring.windows(inputs, 4)) == 1


def test_comparison(inputs, sizes):
    found = scoring.compare(inputs)
    speed, exact, linear, total = found.rows
    assert len(speed.ours) == len(speed.baseline) == sizes.rounds and found.details["baseline_batch"] == 4
    assert found.details["cut_alike"] == 1
    assert exact.reached and total.ours[0] > linear.ours[0] > 0
    alone = scoring.compare(inputs, ours_only=True)
    assert [row.baseline for row in alone.rows] == [[], [], []]
