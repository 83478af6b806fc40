"""A third set of programs that nobody looked at: written from the catalogue of rules alone."""
