#!/usr/bin/env bash
# vl-convert-python 1.9.0.post1: a Vega spec with the `label` transform converts without an exception, and every label
# of the SVG stands at (0, 0).
#
# The transform of Vega (vega-label) places text beside marks; it measures overlaps on a canvas. vl-convert has none.
# `vega_to_svg` prints a TypeError of the JavaScript on stderr (getContext of null) and returns the SVG as if all were
# well, so a program that checks for exceptions only saves a picture whose labels lie on one another in the corner.
# What to do: place labels by Vega's `force` transform, or by positions of one's own.
# Seen: three labels, each `transform="translate(0,0)"`, while the dots they belong to stand apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check vl-convert-python==1.9.0.post1
"$work/venv/bin/python" - <<'PY'
import re

import vl_convert

points = [{"x": 10, "y": 10, "name": "one"}, {"x": 100, "y": 50, "name": "two"}, {"x": 180, "y": 90, "name": "three"}]
spec = {
    "$schema": "https://vega.github.io/schema/vega/v5.json", "width": 200, "height": 100,
    "data": [{"name": "points", "values": points}],
    "marks": [
        {"type": "symbol", "name": "dots", "from": {"data": "points"},
         "encode": {"enter": {"x": {"field": "x"}, "y": {"field": "y"}}}},
        {"type": "text", "from": {"data": "dots"}, "encode": {"enter": {"text": {"field": "datum.name"}}},
         "transform": [{"type": "label", "size": {"signal": "[width, height]"}, "anchor": ["right", "left"]}]},
    ],
}
svg = vl_convert.vega_to_svg(spec)  # no exception
placed = {name: place for place, name in re.findall(r'<text[^>]*translate\(([^)]*)\)[^>]*>(\w+)</text>', svg)}
dots = set(re.findall(r'<path[^>]*translate\(([^)]*)\)', svg))
print("labels:", placed)
assert placed == dict.fromkeys(("one", "two", "three"), "0,0"), "the labels are placed now, or left out"
assert {"10,10", "100,50", "180,90"} <= dots, dots
PY
echo "as described"
