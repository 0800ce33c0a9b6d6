"""Spotify's histories: "account data" (`StreamingHistory…json`) and "extended streaming history"
(`Streaming_History_…`).

Lists of objects. Account data has `endTime` (to the minute, UTC, which it does not say), `artistName`, `trackName`,
`msPlayed`; the extended history has `ts` (UTC), `ms_played`, `master_metadata_album_artist_name` and, of podcasts,
`episode_show_name`. Read in several readers. Both times are those at which the playing ended.

The behaviour is the artist or the show; a row of neither (a video, a file of one's own) is no event. Whose the log is,
no object says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_FIELDS = {"time": "endTime", "ts": "ts", "artist": "artistName", "album_artist": "master_metadata_album_artist_name",
           "show": "episode_show_name"}


def fits(sample: Sample) -> bool:
    layouts = ({"endTime", "artistName", "msPlayed"}, {"ts", "ms_played"})
    return sample.is_list and any(layout <= sample.keys for layout in layouts)


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source` does not say whose it is or where they live.
    """
    heard = pl.coalesce("artist", "album_artist", "show")
    meaning = exports.Meaning(pl.coalesce("time", "ts"), heard, exports.utc(source), ignored=heard.is_null())
    return exports.rows(exports.document(path, source, _FIELDS), path, source, meaning)
