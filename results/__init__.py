"""The record of a run and all that is computed from it; needs neither simulator nor torch."""
