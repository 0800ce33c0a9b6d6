"""Studies: declared rows of settings, run as DVC experiments over seeds, compared with intervals and paired tests."""
