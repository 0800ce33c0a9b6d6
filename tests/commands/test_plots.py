"""Every plot of dvc.yaml is drawn without a network, of the workspace and of two revisions."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from stages.commands import plots as command
from stages.commands.plots import main, plots
from stages.common.errors import UserError
from tests.events.helpers import ROOT

LINES = {"template": "linear", "x": "step", "y": "loss", "title": "Loss & more"}


def run(root, *words):
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A DVC repository with a plot, another at an earlier revision."""
    root = tmp_path_factory.mktemp("project")
    dvc = (sys.executable, "-m", "dvc")
    run(root, "git", "init", "-q")
    run(root, *dvc, "init", "-q")
    (root / "dvc.yaml").write_text(json.dumps({"plots": [{"loss.csv": LINES}]}))
    for name, values in (("first", (3, 2)), ("second", (2, 1))):
        (root / "loss.csv").write_text("step,loss\n" + "".join(f"{n},{value}\n" for n, value in enumerate(values)))
        run(root, "git", "add", ".")
        run(root, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", name)
        run(root, "git", "tag", name)
    return root


def test_the_workspaces_plots_as_one_page_and_as_pictures(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["plots", "--pictures", "pictures"])
    main()
    content = (project / "plots.html").read_text(encoding="utf-8")
    root = ElementTree.fromstring(content.removeprefix("<!DOCTYPE html>"))
    assert len([each for each in root.iter() if each.tag.endswith("svg")]) == 1
    assert "Loss &amp; more" in content and "<script" not in content and "loss.csv" in content
    assert (project / "pictures" / "loss_csv.png").read_bytes().startswith(b"\x89PNG")


def test_two_revisions_lie_over_each_other(project):
    picture, = plots(["first", "second"], root=project)
    assert {point["rev"] for point in picture.spec["data"]["values"]} == {"first", "second"}
    assert "first" in picture.svg and "second" in picture.svg
    assert "loss.csv" in {each.facts["target"] for each in plots(["first", "second"], ["loss.csv"], root=project)}


def test_every_plot_of_this_repository_is_drawn():
    drawn = plots(root=ROOT)
    assert len(drawn) == len({picture.name for picture in drawn}) > 10
    assert all("<svg" in picture.svg for picture in drawn)


def test_dvcs_refusal_is_reported(project):
    with pytest.raises(UserError, match="dvc plots diff --json -- nothing`: .*nothing"):
        plots(["nothing"], root=project)


def test_nothing_to_draw_is_reported(tmp_path):
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    with pytest.raises(UserError, match="nothing to draw"):
        plots(root=tmp_path)


def test_a_plot_that_dvc_cannot_read_is_named_and_the_others_are_drawn(project, monkeypatch, capsys):
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "data": {"values": []}, "mark": "point"}
    said = {"errors": [{"name": "a.csv", "rev": "main", "type": "FileNotFoundError", "msg": "gone"}],
            "data": {"b.csv": [{"type": "vega", "revisions": ["main"], "content": spec}]}}
    monkeypatch.setattr(command, "dvc", lambda root, *words: json.dumps(said))
    assert [picture.name for picture in plots()] == ["b_csv"]
    assert "no plot of a.csv at main: FileNotFoundError gone" in capsys.readouterr().err
