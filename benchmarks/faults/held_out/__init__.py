"""Programs that nobody looked at: written from the catalogue of rules alone, after the limits.

They give the numbers of a release. Whoever changes a rule because of one of them adds it to those
that were seen; a set of which many were seen moves to `spent`.
"""

SEEN = {
    "betas_exchanged",
    "clipped_number_by_number",
    "factors_that_start_alike",
    "left_from_a_smoke_test",
    "letters_where_classes_belong",
    "masks_of_another_order",
    "momentum_of_another_framework",
    "one_word_more_than_vectors",
    "plain_descent_by_default",
    "plateau_at_every_batch",
    "prior_in_every_bias",
    "pushed_apart_without_a_margin",
    "seer_whose_statistics_move",
    "siamese_without_a_stop",
    "sigmoids_all_the_way",
    "small_random_numbers",
    "still_overfitting_two_batches",
    "tied_to_a_wide_embedding",
}
