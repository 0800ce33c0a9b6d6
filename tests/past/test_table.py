import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.past.table import Table
from stages.windows.past import NONE

events = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([NONE, 0, 1, 2])), max_size=40)


@given(events, st.lists(st.integers(0, 9), max_size=10))
def test_a_table_counts_what_followed_each_context(events, asked):
    context, label = np.array(events, dtype=np.int64).reshape(-1, 2).T
    table = Table.counted(context, label, 3)
    expected = [[events.count((each, behavior)) for behavior in range(3)] for each in asked]
    np.testing.assert_array_equal(table.of(np.array(asked, dtype=np.int64)), np.array(expected).reshape(-1, 3))
    assert len(table.start) == len(table.context) + 1 and (table.count > 0).all()
