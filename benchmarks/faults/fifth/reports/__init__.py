"""The fifth round of programs written blind."""
