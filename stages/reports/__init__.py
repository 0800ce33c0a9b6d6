"""The report: what a run made, as one page of HTML that asks for nothing else, and its pictures."""
