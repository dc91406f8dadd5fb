"""Many play tables for learning: a Gymnasium vector environment over worker processes."""
