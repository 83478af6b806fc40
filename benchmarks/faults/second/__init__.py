"""The second round of programs written blind: rules have been mended since because of some."""
