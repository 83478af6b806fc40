"""Programs that nobody looked at: written from the catalogue of rules alone, after the limits.

They give the numbers of a release. Whoever changes a rule because of one of them moves it out, to
the family of the same name one folder up.
"""
