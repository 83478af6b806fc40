"""Models and losses that people wrote themselves, from a paper or after a repository."""
