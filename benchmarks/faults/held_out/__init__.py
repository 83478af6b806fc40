"""Programs that nobody looked at: written from the catalogue of rules alone, after the limits.

They give the numbers of a release. Whoever changes a rule because of one of them adds it to those
that were seen; a set of which many were seen moves to `spent`.
"""

SEEN = {
    "factors_that_start_alike",
    "one_word_more_than_vectors",
    "seer_whose_statistics_move",
    "siamese_without_a_stop",
    "sigmoids_all_the_way",
    "tied_to_a_wide_embedding",
}
