"""Comparisons with the tools that people use today, each in one process, ours and the baseline in turn."""
