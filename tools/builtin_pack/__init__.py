"""Generator of the built-in asset pack: ``python -m tools.builtin_pack`` writes ``sim/builtin``."""
