"""The sixth round of programs written blind."""
