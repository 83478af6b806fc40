"""The seventh round of programs written blind."""
