"""What comes from strangers, read without believing it. Every folder may import these modules."""
