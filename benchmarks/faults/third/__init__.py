"""The third round of faults, written blind from the catalogue."""
