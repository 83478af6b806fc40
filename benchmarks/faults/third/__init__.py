"""The third round of programs written blind, of which half are still held out."""
