"""Data sets in CALVIN's format: read, checked, shown and exported."""
