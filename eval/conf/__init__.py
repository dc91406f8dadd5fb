"""Packaged configuration groups, composed by Hydra."""
