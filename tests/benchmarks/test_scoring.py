import numpy as np
import pytest
import torch

from stages.benchmarks import scoring
from stages.model.likelihood import score
from stages.model.load import load_merged

pytest.importorskip("lm_eval", reason="the rival is not installed: pip install -e '.[benchmark]'")


def test_both_sides_weigh_the_same_candidates(material):
    asked, answers = scoring.windows(material, 3), material.stream.answers
    row = scoring.exactness(material, asked, answers, batch=4)
    assert row.reached and 0 < row.ours[0] <= 1e-3, "equal to the last bit would mean that one was compared with itself"
    theirs = torch.tensor(scoring.their_sums(load_merged(material.model), material, asked, answers, 2)).log_softmax(-1)
    ours = score(load_merged(material.model), asked, answers).log_p
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=0)
    wrong = score(load_merged(material.model), asked, answers[::-1]).log_p
    assert np.abs(wrong - theirs.numpy()).max() > 1e-3


def test_lm_eval_would_cut_the_text_as_we_do(material):
    assert scoring.cut_alike(material, scoring.windows(material, 4), material.stream.answers) == 1


def test_comparison(material, sizes):
    found = scoring.compare(material, sizes)
    speed, exact, linear, total = found.rows
    assert len(speed.ours) == len(speed.theirs) == sizes.rounds and found.details["their_batch"] == 4
    assert found.details["cut_alike"] == 1
    assert exact.reached and total.ours[0] > linear.ours[0] > 0
    alone = scoring.compare(material, sizes, ours_only=True)
    assert [row.theirs for row in alone.rows] == [[], [], []]
