"""What is read of DVC's experiments: those that are finished, values as Hydra reads, the queue, what it prints."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.studies import durations, experiments
from stages.studies.durations import StageClock
from stages.studies.experiments import Queue, hydra
from stages.studies.repository import Finished, finished, mark_of


def git(folder, *arguments):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True,
                          text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    return tmp_path


def test_finished_experiments_are_listed_whatever_they_started_from(repository):
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=repository, check=True)
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "second")
    later = git(repository, "rev-parse", "HEAD")
    for ref in ("exec/EXEC_HEAD", "celery/stash", "celery/failed", "stash", "apply/ORIG_HEAD"):
        git(repository, "update-ref", f"refs/exps/{ref}", head)
    assert finished(repository) == {}
    git(repository, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/table4-no-auxiliary-0-4169e1deb8", later)
    git(repository, "update-ref", f"refs/exps/{later[:2]}/{later[2:]}/fig1c-base-0-13de1c0161", head)
    git(repository, "update-ref", f"refs/exps/{later[:2]}/{later[2:]}/wider", head)
    assert finished(repository) == {
        "4169e1deb8": Finished("table4-no-auxiliary-0-4169e1deb8", later[:7]),
        "13de1c0161": Finished("fig1c-base-0-13de1c0161", head[:7]), "wider": Finished("wider", head[:7])}


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
    now = SimpleNamespace(value=1.0)
    monkeypatch.setattr(durations.time, "monotonic", lambda: now.value)
    return now


EXPERIMENT = SimpleNamespace(name="ours-row-0-abc", mark="abc", params=None, keys={"sft": "key of sft"}, trials=3)


def printed(clock, parts, **options):
    """Read lines of which each of `parts` is printed at once, ten seconds after the one before; then close."""
    learned = Learned()
    seen = StageClock(EXPERIMENT, learned, **options)
    for part in parts:
        for line in part.splitlines(keepends=True):
            seen.read(line)
        clock.value += 10
    seen.close()
    return learned.durations, seen.stage


def test_durations_are_learned_from_what_is_printed(clock):
    assert printed(clock, [
        "Reproducing experiment 'ours-row-0-abc'\n", "Running stage 'ingest':\n> python -m stages.ingest\n", "",
        "Running stage 'windowing':\n", "some line\n", "Running stage 'predictions@dpo':\n", "\n",
    ]) == ([("ingest", 20), ("windowing", 20), ("predictions@dpo", 20)], "predictions@dpo")


def test_seconds_are_learned_by_what_the_result_follows_from(clock):
    learned = Learned()
    seen = StageClock(EXPERIMENT, learned)
    for line in ("Running stage 'sft':\n", "Running stage 'other':\n"):
        seen.read(line)
        clock.value += 10
    seen.close()
    assert learned.keys == ["key of sft", None] and learned.trials == [3, 3] and seen.ended


def test_what_was_not_run_is_not_learned(clock):
    found, stage = printed(clock, [
        "'data/raw/log.csv.dvc' didn't change, skipping\n"
        "Stage 'ingest' is cached - skipping run, checking out outputs\n",
        "Running stage 'sft':\n", "Stage 'scoring' is cached - skipping run, checking out outputs\n", "",
        "Stage 'dpo' didn't change, skipping\n", "Running stage 'evaluate@dpo':\n",
        "Stage 'reference' didn't change, skipping\n",
    ])
    assert found == [("sft", 10), ("evaluate@dpo", 10)] and stage == "reference"


def test_of_stages_that_are_read_at_once_only_the_last_is_learned(clock):
    assert printed(clock, ["Running stage 'a':\nRunning stage 'b':\n"])[0] == [("b", 10)]


def test_a_stage_that_nobody_saw_begin_is_not_learned(clock):
    parts = ["Running stage 'a':\nRunning stage 'b':\n", "", "Running stage 'c':\n", ""]
    assert printed(clock, parts, under_way=True)[0] == [("c", 20)]
    # under way, but not as far as its first stage: the others are seen
    assert printed(clock, ["Reproducing experiment\n", *parts[2:]], under_way=True)[0] == [("c", 20)]


class FakeDvc:
    """DVC's queue as its commands show and change it; each wait of the study is a `step`."""

    def __init__(self):
        self.tasks, self.commands, self.finished = [], [], {}
        self.workers, self.dead = 0, set()
        self.step = lambda: None

    def add(self, name, state="Queued"):
        self.tasks.append([f"{len(self.tasks) + len(self.commands):07x}", name, state])
        return self.tasks[-1]

    def names(self, state):
        return [name for _, name, found in self.tasks if found == state]

    def end(self, state):
        """The first in the queue comes to its end."""
        for task in self.tasks:
            if task[2] == "Queued":
                task[2] = state
                if state == "Success":
                    self.finished[mark_of(task[1])] = Finished(task[1], "commit")
                return

    def status(self):
        working = sum(state == "Running" and name not in self.dead for _, name, state in self.tasks)
        lines = [f"{task}  {name:<40}  02:08 AM   {state}" for task, name, state in self.tasks]
        head = ["Task     Name    Created    Status", *lines] if lines else ["No experiment tasks in the queue."]
        return "\n".join([*head, "", f"Worker status: {working} active, {max(0, self.workers - working)} idle", ""])

    def __call__(self, root, *arguments, check=True, environment=None):
        if arguments == ("queue", "status"):
            return self.status()
        self.commands.append(arguments)
        if arguments[:2] == ("queue", "remove"):
            self.tasks[:] = [task for task in self.tasks if task[0] not in arguments]
        if arguments[:2] == ("queue", "kill"):
            for task in self.tasks:
                if task[0] in arguments and task[2] == "Running":
                    task[2] = "Failed"
        if arguments[:3] == ("exp", "run", "--queue"):
            self.add(arguments[4])
        return ""


@pytest.fixture
def queue(tmp_path, monkeypatch, clock):
    fake, made = FakeDvc(), Queue(tmp_path, Learned())

    def wait(seconds):
        clock.value += seconds
        fake.step()

    monkeypatch.setattr(experiments, "dvc", fake)
    monkeypatch.setattr(experiments, "finished", lambda root: dict(fake.finished))
    monkeypatch.setattr(experiments.time, "sleep", wait)
    made._ended = SimpleNamespace(wait=wait, clear=lambda: None)
    follow = lambda experiment, under_way: made._clocks.setdefault(  # noqa: E731
        experiment.mark, SimpleNamespace(stage="", ended=False, under_way=under_way))
    monkeypatch.setattr(made, "_follow", follow)
    return made, fake


def wanted(*marks, overrides=None):
    return [SimpleNamespace(name=f"ours-row-0-{mark}", mark=mark, params=None, overrides=overrides or {"seed": 1},
                            targets=("evaluate@dpo",)) for mark in marks]


def test_what_is_missing_is_queued_once_and_waited_for(queue):
    made, fake = queue
    fake.add("ours-row-0-bbb")
    fake.step = lambda: fake.end("Success")
    made.run(wanted("aaa", "bbb"))
    put = [command for command in fake.commands if command[:2] == ("exp", "run")]
    assert put == [("exp", "run", "--queue", "--name", "ours-row-0-aaa", "-S", "seed=1", "evaluate@dpo")]
    assert ("queue", "start", "--jobs", "1") in fake.commands
    fake.commands.clear()
    made.run(wanted("aaa", "bbb"))
    assert fake.commands == []


def test_what_failed_is_queued_anew_and_others_tasks_are_left_alone(queue):
    made, fake = queue
    fake.add("ours-row-0-aaa"), fake.add("mine"), fake.add("my-failure", "Failed")
    failed = fake.add("ours-row-0-bbb", "Failed")
    fake.step = lambda: ((fake.tasks[0][2] == "Queued" and fake.end("Success"))
                         or fake.tasks[-1].__setitem__(2, "Success"))
    made.run(wanted("aaa", "bbb"))
    assert fake.commands[0] == ("queue", "remove", failed[0])
    assert [command[4] for command in fake.commands if command[:2] == ("exp", "run")] == ["ours-row-0-bbb"]
    assert fake.names("Queued") == ["mine"] and fake.names("Failed") == ["my-failure"]


def test_an_experiment_that_somebody_has_removed_is_run_again(queue):
    made, fake = queue
    ran = fake.add("ours-row-0-aaa", "Success")
    fake.step = lambda: fake.end("Success")
    made.run(wanted("aaa"))
    assert fake.commands[0] == ("queue", "remove", ran[0]) and "aaa" in fake.finished


def test_what_was_running_when_its_worker_was_killed_is_queued_anew(queue):
    made, fake = queue
    killed, theirs = fake.add("ours-row-0-aaa", "Running"), fake.add("mine", "Running")
    fake.dead = {"ours-row-0-aaa", "mine"}
    fake.step = lambda: fake.end("Success")
    made.run(wanted("aaa"))
    assert fake.commands[:2] == [("queue", "kill", "--force", killed[0])] * 2
    assert fake.commands[2] == ("queue", "remove", killed[0]) and theirs[2] == "Running" and "aaa" in fake.finished


def test_what_runs_is_left_alone_though_its_worker_is_slow_to_answer(queue):
    made, fake = queue
    task, answers = fake.add("ours-row-0-aaa", "Running"), iter([False, False, True])
    fake.dead = {"ours-row-0-aaa"}

    def step():
        if next(answers, True):
            fake.dead = set()
        if made._clocks:
            task[2], fake.finished["aaa"] = "Success", Finished("ours-row-0-aaa", "commit")

    fake.step = step
    made.run(wanted("aaa"))
    assert fake.commands == [] and made._clocks["aaa"].under_way


def test_a_failed_one_is_named_after_the_others_have_been_run(queue):
    made, fake = queue
    ends = iter(["Success", "Failed", "Failed", "Failed", "Failed"])
    fake.step = lambda: fake.end(next(ends, "Success"))
    with pytest.raises(UserError, match="4 of 6 experiments failed: ours-row-0-b, .*see `dvc queue logs ours-row-0-b`"):
        made.run(wanted(*"abcdef"))
    assert fake.names("Queued") == []


def test_the_rest_is_not_tried_after_the_first_ones_have_all_failed(queue):
    made, fake = queue
    mine = fake.add("mine")
    mine[2] = "Running"
    fake.step = lambda: fake.end("Failed") if len(fake.names("Failed")) < 3 else None
    with pytest.raises(UserError, match="3 of 6 experiments failed: .*; the others were taken off the queue; see"):
        made.run(wanted(*"abcdef"))
    assert fake.names("Queued") == [] and fake.names("Running") == ["mine"]


def test_a_queue_that_stands_still_is_started_again_and_at_last_given_up(queue):
    made, fake = queue
    with pytest.raises(UserError, match="stands still"):
        made.run(wanted("a"))
    assert fake.commands.count(("queue", "start", "--jobs", "1")) == 6
    assert fake.names("Queued") == ["ours-row-0-a"]


def test_what_somebody_takes_off_the_queue_is_put_there_again(queue):
    made, fake = queue
    steps = iter([fake.tasks.clear])
    fake.step = lambda: next(steps, lambda: fake.end("Success"))()
    made.run(wanted("a"))
    assert len([command for command in fake.commands if command[:2] == ("exp", "run")]) == 2 and "a" in fake.finished


@pytest.mark.parametrize(("jobs", "there", "started"), [(1, 1, False), (2, 2, False), (2, 3, False), (2, 1, True)])
def test_workers_that_an_earlier_study_left_are_made_up_to_as_many_as_are_wanted(queue, jobs, there, started):
    made, fake = queue
    made.jobs, fake.workers = jobs, there
    fake.step = lambda: fake.end("Success")
    made.run(wanted("a"))
    assert (("queue", "start", "--jobs", str(jobs)) in fake.commands) == started


def test_workers_find_dvc_and_share_the_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(experiments.os, "cpu_count", lambda: 8)
    assert experiments._surroundings(2)["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in experiments._surroundings(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert experiments._surroundings(2)["OMP_NUM_THREADS"] == "3"


def test_what_runs_is_named_with_its_stage(queue):
    made, fake = queue
    [experiment] = wanted("abc")
    fake.add("ours-row-0-abc", "Running"), fake.add("theirs-row-0-def", "Running")
    made._left, made._clocks["abc"] = {"abc": experiment}, (seen := StageClock(experiment, Learned()))
    assert made._note(made.status()) == "ours-row-0: starting"
    seen.read("Running stage 'sft':\n")
    assert made._note(made.status()) == "ours-row-0: sft"
    made._left = {}
    assert made._note(made.status()).endswith("other experiments first: ours-row-0-abc, theirs-row-0-def")


def test_a_queue_of_which_dvc_says_nothing(queue, monkeypatch):
    made, fake = queue
    monkeypatch.setattr(fake, "status", lambda: "")
    with pytest.raises(UserError, match="dvc queue status: printed no line of workers"):
        made.status()
