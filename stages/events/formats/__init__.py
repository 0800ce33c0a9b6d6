"""The formats of logs that `source.format` may name, beside `simulated`.

A new one is a file like its neighbours, a line here, and its name in `Source.format` (stages/common/params.py).
"""

from stages.events.assembly import Format
from stages.events.formats import app_usage, foursquare_nyc, lsapp, table

FORMATS = {
    "table": Format(table.read),
    "foursquare_nyc": Format(foursquare_nyc.read),
    "app_usage": Format(app_usage.read, app_usage.finish),
    "lsapp": Format(lsapp.read),
}
