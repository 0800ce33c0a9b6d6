"""Params, tables, atomic files and the console: what every stage needs, importing nothing of ours."""
