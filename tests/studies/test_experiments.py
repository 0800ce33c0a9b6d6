"""What is read of DVC's experiments: refs of Git, values that Hydra reads back, outputs that grow."""

import subprocess
from types import SimpleNamespace

import pytest
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.studies import experiments, watch
from stages.studies.experiments import Finished, Queue, finished, hydra
from stages.studies.watch import StageWatch


def git(folder, *arguments):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True,
                          text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    return tmp_path


def test_finished_experiments_are_refs_whatever_they_started_from(repository):
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "second")
    later = git(repository, "rev-parse", "HEAD")
    for ref in ("exec/EXEC_HEAD", "celery/stash", "celery/failed", "stash", "apply/ORIG_HEAD", "temp/some/thing-else",
                "apply/some/thing-other", "running/ab/thing-third"):
        git(repository, "update-ref", f"refs/exps/{ref}", head)
    assert finished(repository) == {}
    git(repository, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/table4-no-auxiliary-0-4169e1deb8", later)
    git(repository, "update-ref", f"refs/exps/{later[:2]}/{later[2:]}/fig1c-base-0-13de1c0161", head)
    git(repository, "update-ref", f"refs/exps/{later[:2]}/{later[2:]}/wider", head)
    assert finished(repository) == {
        "4169e1deb8": Finished("table4-no-auxiliary-0-4169e1deb8", later),
        "13de1c0161": Finished("fig1c-base-0-13de1c0161", head), "wider": Finished("wider", head)}


def test_a_folder_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="need a Git repository"):
        finished(tmp_path)


VALUES = [
    "all", "data/raw/log.csv", "two words", "it's", 'a "quoted" word', "a,b", "a=b", "[1, 2]", "{a: b}", "größe ε", "",
    "true", "NULL", "nan", "1e5", "007", "-", "~/log", "*.csv", "C:\\logs\\", "\\'", "a\\'b\\", "%Y-%m-%d %H:%M", "#1",
    "(x)", "a: b", " padded ", 5e-05, 1e-06, 0.1, -0.5, -3, 0, 12, True, False, None,
]


def read_back(folder, value):
    """What an experiment's params.yaml holds: DVC parses the override when queued, and again when applied."""
    path = folder / "params.yaml"
    path.write_text("section:\n  key: before\n", encoding="utf-8")
    [queued] = get_hydra_sweeps({"params.yaml": [f"section.key={hydra(value)}"]})
    apply_overrides(str(path), [queued["params.yaml"]] if isinstance(queued["params.yaml"], str)
                    else list(queued["params.yaml"]))
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["section"]["key"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_from_hydra(tmp_path, value):
    found = read_back(tmp_path, value)
    assert found == value and type(found) is type(value)


@settings(max_examples=60)
@given(st.one_of(st.text(alphabet="ab1 ,'\"\\=[](){}:#~.-εß", max_size=8), st.integers(-10**9, 10**9),
                 st.floats(allow_nan=False, allow_infinity=False)))
def test_any_value_comes_back_from_hydra(tmp_path_factory, value):
    assert read_back(tmp_path_factory.mktemp("values", numbered=True), value) == value


class Learned:
    def __init__(self):
        self.durations, self.keys, self.trials = [], [], []

    def add(self, stage, params, seconds, key, trials):
        self.durations.append((stage, seconds))
        self.keys.append(key)
        self.trials.append(trials)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(watch.time, "monotonic", lambda: now.value)
    return now


EXPERIMENT = SimpleNamespace(name="ours-row-0-abc", mark="abc", params=None, keys={"sft": "key of sft"}, trials=3)


def looks(clock, parts, **options):
    """Look at an output that grows by one of `parts` every ten seconds, then close."""
    learned, output = Learned(), ""
    seen = StageWatch(EXPERIMENT, learned, **options)
    for part in parts:
        output += part
        seen.look(output)
        clock.value += 10
    seen.close()
    return learned.durations, seen.stage


def test_durations_are_learned_from_an_output_that_grows(clock):
    assert looks(clock, [
        "Reproducing experiment 'ours-row-0-abc'\n", "Running stage 'ingest':\n> python -m stages.ingest\n", "",
        "Running stage 'windowing':\n", "some line\n", "Running stage 'predictions@dpo':\n", "\n",
    ]) == ([("ingest", 20), ("windowing", 20), ("predictions@dpo", 20)], "predictions@dpo")


def test_seconds_are_learned_by_what_the_result_follows_from(clock):
    learned = Learned()
    seen = StageWatch(EXPERIMENT, learned)
    seen.look("Running stage 'sft':\n")
    seen.look("Running stage 'sft':\nRunning stage 'other':\n")
    seen.close()
    assert learned.keys == ["key of sft", None] and learned.trials == [3, 3]


def test_what_was_not_run_is_not_learned(clock):
    found, stage = looks(clock, [
        "'data/raw/log.csv.dvc' didn't change, skipping\n"
        "Stage 'ingest' is cached - skipping run, checking out outputs\n",
        "Running stage 'sft':\n", "Stage 'scoring' is cached - skipping run, checking out outputs\n", "",
        "Stage 'dpo' didn't change, skipping\n", "Running stage 'evaluate@dpo':\n",
        "Stage 'reference' didn't change, skipping\n",
    ])
    assert found == [("sft", 10), ("evaluate@dpo", 10)] and stage == "reference"


def test_of_stages_that_pass_between_looks_only_the_last_is_learned(clock):
    assert looks(clock, ["Running stage 'a':\nRunning stage 'b':\n"])[0] == [("b", 10)]


def test_a_stage_that_nobody_saw_begin_is_not_learned(clock):
    parts = ["Running stage 'a':\nRunning stage 'b':\n", "", "Running stage 'c':\n", ""]
    assert looks(clock, parts, under_way=True)[0] == [("c", 20)]
    # under way, but not as far as its first stage: the others are seen
    assert looks(clock, ["", *parts[2:]], under_way=True)[0] == [("c", 20)]


class FakeQueue:
    """Entries by state, as DVC's queue lists them; commands change them."""

    def __init__(self, head):
        self.head, self.queued, self.active, self.failed, self.commands = head, [], [], [], []
        self.proc, self.workers = {}, set()

    def entry(self, name, baseline=None):
        return SimpleNamespace(name=name, stash_rev=f"rev of {name}", baseline_rev=baseline or self.head)

    def iter_queued(self):
        return iter(list(self.queued))

    def iter_active(self):
        return iter(list(self.active))

    def iter_failed(self):
        return iter([SimpleNamespace(entry=entry, result=None) for entry in self.failed])

    def _spawn_worker(self, number):
        self.workers.add(number)

    def dvc(self, *arguments, check=True):
        self.commands.append(arguments)
        if arguments[:2] == ("queue", "remove"):
            for entries in (self.queued, self.failed):
                entries[:] = [entry for entry in entries if entry.stash_rev not in arguments]
        if arguments[:2] == ("queue", "kill"):
            self.failed += [entry for entry in self.active if entry.stash_rev in arguments]
            self.active[:] = [entry for entry in self.active if entry.stash_rev not in arguments]
        if arguments[:3] == ("exp", "run", "--queue"):
            self.queued.append(self.entry(arguments[4]))


@pytest.fixture
def queue(repository, monkeypatch, clock):
    fake = FakeQueue(git(repository, "rev-parse", "HEAD"))
    made = Queue(repository, Learned())
    monkeypatch.setattr(made, "_queue", lambda: fake)
    monkeypatch.setattr(made, "_dvc", fake.dvc)
    monkeypatch.setattr(experiments, "_alive", lambda queue, entry: entry in fake.proc)
    monkeypatch.setattr(experiments, "_workers", lambda root: set(fake.workers))
    # one that runs to its end in a moment, and the clock goes on
    fake.step = lambda: None

    def sleep(seconds):
        clock.value += seconds
        fake.step()

    monkeypatch.setattr(experiments.time, "sleep", sleep)
    return made, fake, repository


def wanted(*marks, overrides=None):
    return [SimpleNamespace(name=f"ours-row-0-{mark}", mark=mark, params=None, overrides=overrides or {"seed": 1},
                            targets=("evaluate@dpo",)) for mark in marks]


def succeed(fake, repository):
    """The first in the queue runs to its end."""
    if fake.queued:
        entry = fake.queued.pop(0)
        git(repository, "update-ref", f"refs/exps/{fake.head[:2]}/{fake.head[2:]}/{entry.name}", fake.head)


def test_what_is_missing_is_queued_once_and_waited_for(queue):
    made, fake, repository = queue
    fake.queued.append(fake.entry("ours-row-0-bbb"))
    fake.step = lambda: succeed(fake, repository)
    made.run(wanted("aaa", "bbb"))
    put = [command for command in fake.commands if command[:2] == ("exp", "run")]
    assert put == [("exp", "run", "--queue", "--name", "ours-row-0-aaa", "-S", "seed=1", "evaluate@dpo")]
    assert ("queue", "start", "--jobs", "1") in fake.commands
    fake.commands.clear()
    made.run(wanted("aaa", "bbb"))
    assert fake.commands == []


def test_what_waits_since_an_earlier_commit_is_queued_anew_and_others_entries_are_left_alone(queue):
    made, fake, repository = queue
    fake.queued += [fake.entry("ours-row-0-aaa", "0" * 40), fake.entry("mine", "0" * 40)]
    fake.failed += [fake.entry("ours-row-0-bbb"), fake.entry("my-failure")]
    made._enqueue(wanted("aaa", "bbb"))
    assert fake.commands[0] == ("queue", "remove", "rev of ours-row-0-bbb", "rev of ours-row-0-aaa")
    assert [entry.name for entry in fake.queued] == ["mine", "ours-row-0-aaa", "ours-row-0-bbb"]
    assert [entry.name for entry in fake.failed] == ["my-failure"]
    assert all(entry.baseline_rev == fake.head for entry in fake.queued[1:])


def test_what_was_running_when_its_worker_was_killed_is_queued_anew(queue):
    made, fake, repository = queue
    fake.active += [fake.entry("ours-row-0-aaa"), fake.entry("ours-row-0-bbb"), fake.entry("mine")]
    fake.proc = {"rev of ours-row-0-bbb": "alive"}
    assert made._enqueue(wanted("aaa", "bbb")) == {"bbb"}
    assert [entry.name for entry in fake.active] == ["ours-row-0-bbb", "mine"]
    assert [entry.name for entry in fake.queued] == ["ours-row-0-aaa"] and fake.failed == []


def fail(fake):
    if fake.queued:
        fake.failed.append(fake.queued.pop(0))


def test_a_failed_one_is_named_after_the_others_have_been_run(queue):
    made, fake, repository = queue
    steps = iter([lambda: succeed(fake, repository), lambda: fail(fake), *[lambda: fail(fake)] * 3])
    fake.step = lambda: next(steps, lambda: succeed(fake, repository))()
    with pytest.raises(UserError, match="4 of 6 experiments failed: ours-row-0-b, .*see `dvc queue logs ours-row-0-b`"):
        made.run(wanted(*"abcdef"))
    assert fake.queued == []


def test_the_rest_is_not_tried_after_the_first_ones_have_all_failed(queue):
    made, fake, repository = queue
    fake.queued.append(fake.entry("mine"))
    fake.step = lambda: fake.failed.append(fake.queued.pop(1)) if len(fake.failed) < 3 else None
    with pytest.raises(UserError, match="3 of 6 experiments failed: .*; the others were taken off the queue; see"):
        made.run(wanted(*"abcdef"))
    assert [entry.name for entry in fake.queued] == ["mine"]


def test_a_queue_that_stands_still_is_started_again_and_at_last_given_up(queue):
    made, fake, repository = queue
    with pytest.raises(UserError, match="stands still"):
        made.run(wanted("a"))
    assert fake.commands.count(("queue", "start", "--jobs", "1")) == 6
    assert [entry.name for entry in fake.queued] == ["ours-row-0-a"]


def test_a_worker_that_is_slow_gets_no_second_one_beside_it(queue):
    made, fake, repository = queue
    fake.workers = {1}
    slow = iter(range(500))
    fake.step = lambda: None if next(slow, None) is not None else succeed(fake, repository)
    made.run(wanted("a"))
    assert ("queue", "start", "--jobs", "1") not in fake.commands and fake.workers == {1}


@pytest.mark.parametrize("alive", [{1}, {2}, {1, 2, 3}])
def test_workers_that_an_earlier_study_left_are_made_up_to_as_many_as_are_wanted(queue, alive, monkeypatch):
    made, fake, repository = queue
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made.jobs, fake.workers = 2, set(alive)
    fake.step = lambda: succeed(fake, repository)
    made.run(wanted("a"))
    assert not [command for command in fake.commands if command[0] == "queue"] and fake.workers == alive | {1, 2}


def test_what_runs_is_named_with_its_stage(queue):
    made, fake, repository = queue
    [experiment] = wanted("abc")
    seen = StageWatch(experiment, Learned())
    watched = experiments._Watched({"abc": experiment}, {"abc": seen}, {"abc": "rev"})
    assert watched.note() == "ours-row-0: starting"
    seen.look("Running stage 'sft':\n")
    assert watched.note() == "ours-row-0: sft"
    watched.others = ["theirs-row-0-def"]
    assert watched.note() == "ours-row-0: sft"
    watched.running = {}
    assert watched.note() == "the queue is at other experiments first: theirs-row-0-def"
