"""The eighth round of programs written blind."""
