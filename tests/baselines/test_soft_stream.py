import numpy as np
import pytest
import torch

from stages.baselines.fitting.sequences import Sequences
from stages.baselines.language.soft_stream import SoftStreamLayout
from stages.baselines.sequential.sasrec import SASRec, item_vectors, load_sasrec, user_vectors
from stages.baselines.sequential.stage import write_weights
from stages.baselines.sequential.training import Fitted
from stages.common.errors import UserError
from stages.model.load import load_tokenizer
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from tests.small_log import all_behaviors, small_log, small_params, small_windows

SIZE = 10_000  # any number that no ordinary token reaches
SETTINGS = {"dimensions": 8, "blocks": 1, "heads": 1, "dropout": 0.0}


@pytest.fixture
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


def layouts(tokenizer, with_users, events=None, **changes):
    """The layout with soft tokens and the one without, over the same log."""
    events = small_log() if events is None else events
    params, log = small_params(**changes), EventLog.from_tables(events, all_behaviors())
    return SoftStreamLayout(tokenizer, log, params, SIZE, with_users), layout_of(tokenizer, log, params)


def hard(ids):
    return [token for token in ids if token < SIZE]


def sequences_of(layout, events, limit=1000):
    targets = np.flatnonzero(np.arange(len(events)) - layout.log.first >= 3)
    return layout.sequences(targets, limit, np.random.default_rng(0))


@pytest.mark.parametrize("context", ["next", "history", "id"])
@pytest.mark.parametrize("with_users", [False, True])
def test_soft_tokens_apart_it_is_the_layout_stream(tokenizer, context, with_users):
    events = small_log()
    soft, plain = layouts(tokenizer, with_users, events, prompt__context=context)
    assert soft.answers == plain.answers
    # what stands in pieces between soft tokens is the same text, if not always the same tokens
    for row in (3, 20, 60, 150):
        assert tokenizer.decode(hard(soft.prompt(row))) == tokenizer.decode(plain.prompt(row))
    for one, other in zip(sequences_of(soft, events), sequences_of(plain, events), strict=True):
        assert one.behaviors == other.behaviors
        for (start, end), (own, stop) in zip(one.spans, other.spans, strict=True):
            assert one.input_ids[start:end] == other.input_ids[own:stop]


@pytest.mark.parametrize("context", ["next", "history", "id"])
@pytest.mark.parametrize("with_users", [False, True])
def test_a_training_target_stands_behind_the_prompt_of_a_window_as_long(tokenizer, context, with_users):
    events = small_log([20])
    soft, _ = layouts(tokenizer, with_users, events, prompt__context=context, windowing__history=20)
    found = [s for s in sequences_of(soft, events) if s.input_ids[: s.spans[0][0]] == soft.prompt(3)]
    assert len(found) == 1, "one sequence begins with the user's first event, as the windows do"
    for row, (start, _) in enumerate(found[0].spans, start=3):
        assert soft.prompt(row) == found[0].input_ids[:start]
    assert len(found[0].spans) > 1


@pytest.mark.parametrize("with_users", [False, True])
def test_each_mention_is_followed_by_its_own_token_and_no_target_is_read_behind_it(tokenizer, with_users):
    events = small_log()
    layout, _ = layouts(tokenizer, with_users, events)
    ids, log = layout.prompt(20), layout.log
    items = [token - SIZE for token in ids if SIZE <= token < SIZE + layout.items]
    assert items == [*range(len(layout.candidates)), *log.behavior[14:20]]
    users = [layout.users[token - SIZE - layout.items] for token in ids if token >= SIZE + layout.items]
    assert users == [(14, row) for row in range(14, 21)] * with_users
    for i, token in enumerate(ids):
        if token in range(SIZE, SIZE + layout.items):
            label = layout.candidates[token - SIZE]
            assert tokenizer.decode(hard(ids[:i])).endswith(f"{label}\n")


def test_a_behaviour_outside_the_vocabulary_has_the_token_of_all_others(tokenizer):
    events = small_log([12])
    known = all_behaviors().filter(all_behaviors()["behavior"] != events["behavior"][4])
    log = EventLog.from_tables(events, known)
    layout = SoftStreamLayout(tokenizer, log, small_params(), SIZE, with_users=False)
    others = [token for token in layout.prompt(6) if token == SIZE + len(known)]
    assert len(others) == sum(log.behavior[:6] >= len(known)) > 0


def test_events_are_dropped_to_make_room_for_soft_tokens_and_users_forget_them(tokenizer):
    events = small_log()
    _, plain = layouts(tokenizer, True, events)
    size = len(plain.prompt(20)) + plain.longest_answer
    layout, _ = layouts(tokenizer, True, events, prompt__max_tokens=size)
    ids = layout.prompt(20)
    assert len(ids) + layout.longest_answer <= size and layout.dropped > 0
    first, row = layout.users[-1]
    assert (first, row) == (14 + layout.dropped, 20)
    with pytest.raises(UserError, match="max_tokens"):
        layouts(tokenizer, True, events, prompt__max_tokens=len(layout.prefix))


def test_a_lost_soft_token_is_an_error(tokenizer):
    layout, _ = layouts(tokenizer, True)
    with pytest.raises(ValueError, match="soft tokens"):
        layout._named(layout.prompt(20)[:-1], 14, 21)


@pytest.fixture
def sasrec():
    """An untrained SASRec of the small log."""
    events = small_log()
    sequences = Sequences(events, small_windows(events, ["train"] * 4 + ["valid", "natural"]), all_behaviors(), 6)

    def make(context="next"):
        torch.manual_seed(0)
        return SASRec(sequences, SETTINGS, context, "ce").eval()

    return make, sequences, events


@pytest.mark.parametrize("context", ["id", "history", "next"])
def test_a_written_sasrec_is_read_again(sasrec, tmp_path, context):
    make, sequences, _ = sasrec
    model = make(context)
    write_weights(Fitted(model, SETTINGS, 0.0, [], 0), tmp_path / "sasrec")
    found = load_sasrec(tmp_path / "sasrec", sequences)
    assert found.embedder.context == context and not any(p.requires_grad for p in found.parameters())
    batch = sequences.windows(np.array([10, 50]))
    torch.testing.assert_close(found.log_p(batch), model.log_p(batch).detach())
    assert torch.equal(item_vectors(found), model.embedder.behaviors.weight[: sequences.size + 1])


def test_a_sasrec_of_another_log_and_a_folder_without_one_are_refused(sasrec, tmp_path):
    make, sequences, events = sasrec
    write_weights(Fitted(make(), SETTINGS, 0.0, [], 0), tmp_path / "sasrec")
    other = Sequences(events, small_windows(events, ["train"] * 4 + ["valid", "natural"]), all_behaviors(), 9)
    with pytest.raises(UserError, match="another log"):
        load_sasrec(tmp_path / "sasrec", other)
    with pytest.raises(UserError, match="no SASRec"):
        load_sasrec(tmp_path, sequences)


def test_a_users_vector_is_sasrecs_state_behind_what_the_prompt_tells(sasrec):
    make, sequences, _ = sasrec
    model = make()
    states = lambda row: model.encoder(model.embedder(b := sequences.windows(np.array([row]))), b.padding)  # noqa: E731
    found = user_vectors(model, sequences, [(0, 4), (20, 26), (22, 26), (23, 26), (26, 26), (0, 5)])
    torch.testing.assert_close(found[1], states(26)[0, -1])
    torch.testing.assert_close(found[0], states(4)[0, -1])
    assert not torch.allclose(found[2], found[1]) and not torch.allclose(found[2], found[3])
    assert torch.isfinite(found).all() and found.shape == (6, 8)
    assert user_vectors(model, sequences, []).shape == (0, 8)


def test_a_users_vector_knows_nothing_of_the_target_nor_of_what_is_not_in_the_prompt(sasrec):
    make, sequences, events = sasrec
    model, windows = make(), small_windows(events, ["train"] * 4 + ["valid", "natural"])
    names = all_behaviors()["behavior"].to_list()

    def vector(row):
        behavior = events["behavior"].to_list()
        behavior[row] = next(name for name in names if name != behavior[row])
        changed = Sequences(events.with_columns(behavior=np.array(behavior)), windows, all_behaviors(), 6)
        return user_vectors(model, changed, [(22, 26)])

    plain = user_vectors(model, sequences, [(22, 26)])
    assert torch.equal(vector(26), plain) and torch.equal(vector(21), plain)
    assert not torch.allclose(vector(22), plain) and not torch.allclose(vector(25), plain)
