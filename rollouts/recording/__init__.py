"""Demonstrations in the format of CALVIN's data set."""
