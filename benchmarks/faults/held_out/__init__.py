"""Programs that nobody looked at: written from the catalogue of rules alone, after the limits.

They give the numbers of a release. Whoever changes a rule because of one of them adds it to those
that were seen; a set of which many were seen moves to `spent`.
"""

SEEN = {
    "clipped_number_by_number",
    "difference_of_two_angles",
    "distances_for_similarities",
    "factors_that_start_alike",
    "left_from_a_smoke_test",
    "median_of_a_heat_map",
    "momentum_of_another_framework",
    "one_word_more_than_vectors",
    "plateau_at_every_batch",
    "reversal_before_the_wrong_head",
    "second_output_never_asked_for",
    "seer_whose_statistics_move",
    "siamese_without_a_stop",
    "sigmoids_all_the_way",
    "smoothed_until_all_are_alike",
    "still_overfitting_two_batches",
    "tied_to_a_wide_embedding",
}
