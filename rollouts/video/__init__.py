"""Videos of recorded chains."""
