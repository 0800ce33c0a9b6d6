"""What a log is, found out from a part of it: its format, its columns, and what it does not say."""
