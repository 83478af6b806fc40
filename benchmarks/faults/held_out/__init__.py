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
    "deviation_without_a_floor",
    "dropout_before_each_norm",
    "first_word_forgotten",
    "forty_rows_and_two_hundred_units",
    "gates_that_start_shut",
    "gradients_for_evaluation_only",
    "hinge_without_a_minus",
    "messages_dropped_for_ever",
    "norm_of_one_image",
    "normalized_over_the_batch",
    "number_of_the_customer",
    "one_sample_to_a_step",
    "penalty_subtracted",
    "second_optimizer_never_steps",
    "softmax_for_several_tags",
    "stage_whose_result_is_lost",
    "stay_in_seconds",
    "the_end_is_not_the_end",
    "trust_in_a_row",
    "uncertainty_leaves_dropout_on",
    "unreadable_images_are_black",
    "vocabulary_built_twice",
    "way_back_never_taken",
}
