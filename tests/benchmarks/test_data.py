import numpy as np
import pytest

from stages.benchmarks.data import CANDIDATES, simulated, widened
from stages.benchmarks.training import listening
from tests.benchmarks.conftest import TINY
from tests.events.helpers import ROOT, params_with, write_params


def test_stretches_hold_whole_blocks_and_enough_labels(inputs):
    few, many = inputs.stretches(20, 0), inputs.stretches(60, 0)
    assert 20 <= len(inputs.labels_among(few)) < len(inputs.labels_among(many))
    assert set(few) <= set(many) <= set(inputs.rows("train").tolist())
    assert (np.diff(many) > 0).all() and (inputs.stretches(20, 0) == few).all()
    assert not (len(few) == len(other := inputs.stretches(20, 1)) and (few == other).all())
    everything = inputs.stretches(10**6, 0)
    assert (everything == inputs.rows("train")).all()
    # each row of a stretch is there: as many sequences as stretches
    sequences = inputs.stream.sequences(few, len(few), np.random.default_rng(0))
    assert sum(len(sequence.spans) for sequence in sequences) == len(few)
    assert max(len(sequence.spans) for sequence in sequences) == inputs.params.prompt.stream_events - 3


def test_the_vocabulary_grows_to_as_many_candidates_as_are_compared(inputs):
    wide = widened(inputs.vocabulary, 8)
    assert wide.height == 8 and wide["behavior"].n_unique() == 8
    assert wide[:6].equals(inputs.vocabulary) and not wide["is_anchor"][6:].any()
    assert widened(inputs.vocabulary, 3).equals(inputs.vocabulary)


def test_the_log_is_simulated_whatever_the_params_say(tiny_base, tmp_path):
    small = {"source__format": "table", "simulator__users": 120, "simulator__days": 6, "windowing__natural": 5}
    params = write_params(tmp_path / "own.yaml", params_with(**small))
    made = simulated(params, TINY, tiny_base, tmp_path)
    assert made.events["user"].n_unique() == 120 and made.vocabulary.height <= CANDIDATES
    assert made.params.source.format == "simulated"
    assert ROOT.joinpath("params.yaml").exists() and not list(tmp_path.glob("*.part"))


@pytest.mark.filterwarnings("ignore")
def test_what_a_baseline_warns_of_is_kept():
    import logging
    import warnings

    with listening("baseline") as heard:
        logging.getLogger("baseline.trainer").warning("no flash attention")
        logging.getLogger("baseline.trainer").warning("no flash attention")
        warnings.warn("deprecated", stacklevel=1)
    assert heard == ["no flash attention", "deprecated"]
