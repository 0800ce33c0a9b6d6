"""Our own models are timed on the windows that baselines are timed on, and say what context they saw."""

import pytest
from ruamel.yaml import YAML

from stages.baselines import timing
from stages.common import tables
from stages.common.files import read_json
from stages.windows import tested as choice
from tests.baselines.language import small_task


@pytest.fixture
def timed(loud_base, tmp_path, monkeypatch):
    """The command on a small log; its metrics and the rows of the windows that were asked for."""
    asked = []
    monkeypatch.setattr(timing, "latency_ms",
                        lambda one, rows: ([one(row) for row in rows[:2]] and asked.extend(rows)) or 7.5)

    def run(**changes):
        task = small_task(tmp_path, "tallrec", {}, **changes)
        options = {name: tmp_path / f"{name}.parquet" for name in ("events", "windows", "vocabulary")}
        for name, path in options.items():
            tables.write(getattr(task, name), name, path)
        with open(tmp_path / "params.yaml", "w") as out:
            YAML().dump(task.params.model_dump(by_alias=True), out)
        options |= {"params": tmp_path / "params.yaml", "model": loud_base, "counts": tmp_path / "base.json"}
        monkeypatch.setattr("sys.argv", ["timing", *(part for k, v in options.items() for part in (f"--{k}", str(v)))])
        timing.STAGE.main()
        return task, read_json(tmp_path / "base.json"), asked

    return run


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_the_windows_are_those_of_all_baselines(timed, layout):
    task, metrics, asked = timed(prompt__layout=layout)
    wanted = choice.tested(task.events, task.windows, task.params.predictions, task.params.data_seed)
    assert asked == wanted["row"].to_list() and len(asked) > 2
    assert metrics == {"layout": layout, "context": task.params.prompt.context, "latency_ms": 7.5}

