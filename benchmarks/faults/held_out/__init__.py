"""Programs that nobody looked at: written from the catalogue of rules alone, after the limits.

They give the numbers of a release. Whoever changes a rule because of one of them adds it to those
that were seen.
"""

SEEN = {
    "adapter_added_too_late",
    "attention_over_a_single_score",
    "autoencoder_all_linear",
    "clipped_for_another_loss",
    "cycles_that_climb_too_high",
    "columns_for_rows",
    "dropout_before_each_norm",
    "forty_rows_and_two_hundred_units",
    "gradients_for_evaluation_only",
    "head_of_a_thousand",
    "hinge_without_a_minus",
    "ink_and_paper_exchanged",
    "messages_dropped_for_ever",
    "norm_of_one_image",
    "normalized_over_the_batch",
    "number_of_the_customer",
    "softmax_for_several_tags",
    "stage_whose_result_is_lost",
    "teacher_who_drifts",
    "the_end_is_not_the_end",
    "trust_in_a_row",
    "uncertainty_leaves_dropout_on",
    "unreadable_images_are_black",
    "vocabulary_built_twice",
    "way_back_never_taken",
}
