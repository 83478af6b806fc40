"""The fourth round of programs written blind."""
