"""Policies behind a network address: openpi's protocol, vla-eval's, and our own."""
