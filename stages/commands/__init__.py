"""Commands for people: `python -m stages.predict` and its like."""
