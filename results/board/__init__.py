"""A leaderboard as a static site, made of bundles whose verification it has seen."""
