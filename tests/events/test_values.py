import polars as pl

from stages.common.parallel import side_by_side
from stages.events.values import Values


def judge(strings):
    name = pl.col("name")
    rule = pl.when(name == "").then(pl.lit("empty"))
    return strings.to_frame("name").select(upper=name.str.to_uppercase(), rule=rule)


def test_what_is_said_of_a_value_stands_at_its_number():
    values = Values(judge)
    numbers = [values.numbers(pl.Series(strings, dtype=pl.String)) for strings in (["b", "a", "b"], [None, "a"], [])]
    refused = [values.refused(some).tolist() for some in numbers]
    assert refused == [[False, False, False], [True, False], []]
    assert [values.known()["upper"].gather(some).to_list() for some in numbers] == [["B", "A", "B"], ["", "A"], []]


def test_each_value_is_judged_once_from_many_threads():
    judged = []
    values = Values(lambda strings: [judged.extend(strings), judge(strings)][1])

    def look_up(start):
        strings = pl.Series([f"value {number % 500}" for number in range(start, start + 300)])
        numbers = values.numbers(strings)
        assert not values.refused(numbers).any()
        assert values.known()["upper"].gather(numbers).equals(strings.str.to_uppercase().alias("upper"))

    list(side_by_side((lambda start=start: look_up(start)) for start in range(0, 2000, 50)))
    assert sorted(judged) == sorted({f"value {number}" for number in range(500)})
