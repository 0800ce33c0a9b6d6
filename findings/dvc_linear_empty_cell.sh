#!/usr/bin/env bash
# DVC 3.67.1: the plot template `linear` draws an empty cell of a CSV as 0.
#
# A history of training has a validation loss at some steps only; its other cells are empty. `dvc plots show` hands
# every cell on as text, and Vega-Lite reads the empty text of a quantitative field as the number 0: the line falls to 0
# and back at each step without a value. A column of nothing but numbers gives no hint of it in the JSON.
# What to do: a template of one's own with {"filter": "datum['<DVC_METRIC_Y>'] !== ''"} among its transforms.
# Seen: `"loss": ""` in the data, and a mark labelled `step: 0; loss: 0` in the picture of 3.5 and 3.25.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1 vl-convert-python==1.9.0.post1
mkdir "$work/repository" && cd "$work/repository"
export DVC_NO_ANALYTICS=1 PATH="$work/venv/bin:$PATH"
git init --quiet && dvc init --quiet
printf 'step,loss\n0,\n1,3.5\n2,3.25\n' > history.csv
printf 'plots:\n  - history.csv: {x: step, y: loss, template: linear}\n' > dvc.yaml
dvc plots show --json > shown.json
python - <<'PY'
import json
import re

import vl_convert

shown = json.load(open("shown.json"))
[[plot]] = (shown["data"] if "data" in shown else shown).values()
spec = plot["content"] if isinstance(plot["content"], str) else json.dumps(plot["content"])
assert '"loss": ""' in spec, "the cell is not handed on as an empty text"
marks = set(re.findall(r'aria-label="(step: \d+; loss: [^;"]*)', vl_convert.vegalite_to_svg(spec)))
print(sorted(marks))
assert "step: 0; loss: 0" in marks, "the empty cell is not drawn as 0"
PY
echo "as described"
