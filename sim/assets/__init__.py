"""Storage and download of asset packs."""
