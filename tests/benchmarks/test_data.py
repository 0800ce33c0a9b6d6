import numpy as np
import pytest

from stages.benchmarks.data import CANDIDATES, labels_among, simulated, stretches, widened
from stages.benchmarks.training import listening
from tests.events.helpers import ROOT, params_with, write_params


def test_stretches_hold_whole_blocks_and_enough_labels(material):
    few, many = stretches(material, 20, 0), stretches(material, 60, 0)
    assert 20 <= len(labels_among(material, few)) < len(labels_among(material, many))
    assert set(few) <= set(many) <= set(material.rows("train").tolist())
    assert (np.diff(many) > 0).all() and (stretches(material, 20, 0) == few).all()
    assert not (len(few) == len(other := stretches(material, 20, 1)) and (few == other).all())
    everything = stretches(material, 10**6, 0)
    assert (everything == material.rows("train")).all()
    # each row of a stretch is there: as many sequences as stretches
    sequences = material.stream.sequences(few, len(few), np.random.default_rng(0))
    assert sum(len(sequence.spans) for sequence in sequences) == len(few)
    assert max(len(sequence.spans) for sequence in sequences) == material.params.prompt.stream_events - 3


def test_the_vocabulary_grows_to_as_many_candidates_as_are_compared(material):
    wide = widened(material.vocabulary, 8)
    assert wide.height == 8 and wide["behavior"].n_unique() == 8
    assert wide[:6].equals(material.vocabulary) and not wide["is_anchor"][6:].any()
    assert widened(material.vocabulary, 3).equals(material.vocabulary)


def test_the_log_is_simulated_whatever_the_params_say(tiny_base, tmp_path):
    small = {"source__format": "table", "simulator__users": 120, "simulator__days": 6, "windowing__natural": 5}
    params = write_params(tmp_path / "own.yaml", params_with(**small))
    made = simulated(params, tiny_base, tmp_path)
    assert made.events["user"].n_unique() == 120 and made.vocabulary.height <= CANDIDATES
    assert made.params.source.format == "simulated"
    assert ROOT.joinpath("params.yaml").exists() and not list(tmp_path.glob("*.part"))


@pytest.mark.filterwarnings("ignore")
def test_what_a_rival_warns_of_is_kept():
    import logging
    import warnings

    with listening("rival") as heard:
        logging.getLogger("rival.trainer").warning("no flash attention")
        logging.getLogger("rival.trainer").warning("no flash attention")
        warnings.warn("deprecated", stacklevel=1)
    assert heard == ["no flash attention", "deprecated"]
