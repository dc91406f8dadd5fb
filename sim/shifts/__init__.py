"""Variants of chains: what a level of `calvin_eval.shifts.AXES` means for one chain."""
