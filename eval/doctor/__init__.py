"""Checks of the machine and the installation before a run."""
