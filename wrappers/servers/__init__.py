"""Policies behind a socket: other people's servers as policies, and ours for theirs."""
