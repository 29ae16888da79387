"""Mutations of what is sealed, and of the checks that images, counts, networks and bundles belong together."""

from __future__ import annotations

from mutation import mutation

CERTIFIER = "rrise/runtime/certifier.py"
CALIBRATE = "rrise/stages/calibrate.py"
LEVELS = "rrise/stages/calibrate_levels.py"
EVALUATE = "rrise/stages/evaluate.py"
PASSES = "rrise/stages/more_passes.py"
PROVENANCE = "rrise/stages/provenance.py"

CHECKS = (
    # What is sealed
    mutation(
        "engine sha256 not compared",
        "rrise/runtime/bundle.py",
        "if found != recorded:",
        "if False:",
        "test_bundle.py::test_a_swapped_engine_is_refused_with_both_hashes",
    ),
    mutation(
        "sha256 of another copy of the engine not compared",
        CERTIFIER,
        "if sha256_of(data) != loaded.engine.sha256:",
        "if False:",
        "test_certifier.py::test_another_engine_is_refused",
    ),
    mutation(
        "reference answers not compared",
        CERTIFIER,
        "bundle.reference.check(opened)",
        "pass",
        "test_reference.py::test_an_engine_that_answers_otherwise_is_refused",
    ),
    mutation(
        "sha256 of bundle.json not compared",
        "rrise/runtime/bundle_schema.py",
        "lambda recorded: recorded == own)",
        "lambda recorded: True)",
        "test_bundle.py::test_every_flipped_byte_is_refused",
    ),
    mutation(
        "signature not verified",
        "rrise/runtime/bundle.py",
        "verify(document, read_signature(folder), key)",
        "read_signature(folder)",
        "test_signature.py::test_another_key_is_refused",
    ),
    mutation(
        "a bundle swapped before a fork accepted",
        CERTIFIER,
        "if of is not None and loaded.sha256 != of.sha256:",
        "if False:",
        "test_serving.py::test_a_bundle_swapped_before_the_fork_is_refused",
    ),
    mutation(
        "Certifier takes a curve of q_m",
        CERTIFIER,
        "if extra := bundle.extra_passes:",
        "if (extra := bundle.extra_passes) and False:",
        "test_passes_served.py::test_one_pass_is_refused_a_curve_of_more_and_more_passes_one_of_q",
    ),
    # What belongs together
    mutation(
        "calibration images that trained accepted",
        CALIBRATE,
        'require_unseen("calibration"',
        'print("calibration"',
        "test_refusals.py::test_a_calibration_image_that_trained_is_refused",
    ),
    mutation(
        "calibration images that trained accepted, several sigma",
        LEVELS,
        'require_unseen("calibration"',
        'print("calibration"',
        "test_refusals.py::test_a_calibration_image_that_trained_is_refused",
    ),
    mutation(
        "calibration images that shape the curve accepted",
        CALIBRATE,
        "np.union1d(trained, splits.profile.ids)",
        "trained",
        "test_refusals.py::test_a_calibration_image_that_shapes_the_curve_is_refused",
    ),
    mutation(
        "counts of another classifier accepted",
        "rrise/stages/build.py",
        "if found != classifier_sha256:",
        "if False:",
        "test_refusals.py::test_calibration_counts_of_another_classifier_are_refused",
    ),
    mutation(
        "counts of another sigma accepted",
        CALIBRATE,
        'if store.manifest.sigma != spec.get("sigma"):',
        "if False:",
        "test_refusals.py::test_calibration_counts_of_another_sigma_are_refused",
    ),
    mutation(
        "counts that stopped early accepted",
        CALIBRATE,
        "if (other := draws[draws != n]).size:",
        "if (other := draws[draws != n]).size and False:",
        "test_stages.py::test_counts_of_another_number_of_draws_never_calibrate",
    ),
    mutation(
        "counts of views accepted",
        CALIBRATE,
        "if facts.views > 1 or facts.images_per_pass > 1:",
        "if False:",
        "test_refusals.py::test_calibration_counts_of_views_are_refused",
    ),
    mutation(
        "profiles of several sigma not put in order",
        LEVELS,
        "return sorted(stores, key=lambda store: store.manifest.sigma)",
        "return stores",
        "test_refusals.py::test_counts_and_profiles_of_several_sigma_may_come_in_any_order",
    ),
    mutation(
        "curves of several sigma given to others",
        "rrise/runtime/multi_sigma.py",
        "zip(bundle.curves, bundle.sigmas, strict=True)",
        "zip(bundle.curves[::-1], bundle.sigmas, strict=True)",
        "test_noise_levels.py::test_each_sigma_has_its_own_logits_curve_and_radius",
    ),
    mutation(
        "certified labels that differ do not abstain",
        "rrise/runtime/multi_sigma.py",
        "certified = agree & (",
        "certified = (",
        "test_joint.py::test_the_largest_radius_is_chosen_unless_certified_labels_differ",
    ),
    mutation(
        "counts of several sigma drawn on different devices accepted",
        LEVELS,
        '"compile", "device"):',
        '"compile"):',
        "test_refusals.py::test_counts_of_several_sigma_are_drawn_alike",
    ),
    mutation(
        "test images that trained accepted",
        EVALUATE,
        "network.training_ids, splits.train.ids, splits.calibration.ids",
        "network.training_ids, splits.calibration.ids",
        "test_refusals.py::test_a_test_image_that_was_used_is_refused",
    ),
    mutation(
        "test images that calibrated accepted",
        EVALUATE,
        "network.training_ids, splits.train.ids, splits.calibration.ids",
        "network.training_ids, splits.train.ids",
        "test_refusals.py::test_a_test_image_that_was_used_is_refused",
    ),
    mutation(
        "other calibration images than the bundle's accepted",
        PROVENANCE,
        "if images.sha256 != recorded:",
        "if False:",
        "test_refusals.py::test_other_calibration_images_than_the_bundle_s_are_refused",
    ),
    mutation(
        "other calibration counts than the bundle's accepted",
        PROVENANCE,
        "if sha256 != recorded:",
        "if False:",
        "test_refusals.py::test_other_calibration_counts_than_the_bundle_s_are_refused",
    ),
    mutation(
        "another classifier than the bundle's accepted",
        PROVENANCE,
        "if network.sha256 != recorded:",
        "if False:",
        "test_passes_served.py::test_another_classifier_than_calibrated_is_refused",
    ),
    mutation(
        "gaussian bundle evaluated on grid counts",
        EVALUATE,
        '("sampler", "precision", "compile", "device")',
        '("precision", "compile", "device")',
        "test_refusals.py::test_a_bundle_of_gaussian_noise_is_not_judged_on_grid_noise",
    ),
    mutation(
        "engines compared on images that calibrated them",
        "rrise/stages/engines.py",
        'require_unseen("test"',
        'print("test"',
        "test_refusals.py::test_engines_are_not_compared_on_images_that_calibrated_them",
    ),
    mutation(
        "silence about an ONNX classifier's training images accepted",
        "rrise/training/seen.py",
        "if not said:",
        "if False:",
        "test_refusals.py::test_a_classifier_of_which_nobody_says_what_trained_it_is_refused",
    ),
    mutation(
        "more passes served with another number of draws",
        PASSES,
        "drawn.tolist() != [self.extra.m]:",
        "False:",
        "test_passes_served.py::test_another_number_of_draws_and_other_noise_than_calibrated_are_refused",
    ),
    mutation(
        "more passes served with other noise than calibrated",
        PASSES,
        "if calibrated != source.sampler:",
        "if False:",
        "test_passes_served.py::test_another_number_of_draws_and_other_noise_than_calibrated_are_refused",
    ),
    mutation(
        "a surrogate forgets what trained its classifier",
        "rrise/training/surrogate.py",
        "np.union1d(classifier.training_ids, ids)",
        "ids",
        "test_surrogate.py::test_training_ids_are_those_of_both_networks",
    ),
    # What is certified is what the user thinks
    mutation(
        "a classifier that is no function of one image sampled",
        "rrise/stages/build.py",
        "require_one_image(network.module, images.input_shape)",
        "pass",
        "test_one_image.py::test_an_onnx_classifier_is_asked_too",
    ),
    mutation(
        "a network saved that is more than its weights",
        "rrise/training/networks.py",
        "_require_same_when_loaded(spec, module, weights)\n    ids",
        "ids",
        "test_one_image.py::test_a_network_that_is_more_than_its_state_dict_is_not_saved",
    ),
    mutation(
        "class names of the image source given to the logits",
        "rrise/images/image_set.py",
        "labels=places[self.labels], classes=given)",
        "classes=given)",
        "test_class_names.py::test_names_in_another_order_are_mapped_with_their_labels",
    ),
    mutation(
        "Exif orientation ignored",
        "rrise/images/pictures.py",
        "ImageOps.exif_transpose(picture)",
        "picture",
        "test_picture_files.py::test_a_picture_is_read_as_viewers_show_it",
    ),
    mutation(
        "a source of many repeats accepted",
        "rrise/stages/caveats.py",
        "if share > promised / _RARE and not config.distinct:",
        "if False:",
        "test_refusals.py::test_a_source_of_many_repeats_is_refused_unless_distinct_pictures_are_meant",
    ),
    mutation(
        "eta not split over the bundles of which one is picked",
        "rrise/calibration/settings.py",
        'exact("eta", self.eta) / self.of)',
        'exact("eta", self.eta))',
        "test_refusals.py::test_one_of_several_bundles_may_be_picked_if_they_share_eta",
    ),
    # The tests themselves
    mutation(
        "groups of tests not kept together",
        "tests/groups.py",
        "return GroupScheduling(config, log)",
        "return None",
        "test_mutations.py::test_the_mutated_text_stands_there_once",
        arguments=("-n", "2"),
    ),
    mutation(
        "a torn group of tests is not told",
        "tests/groups.py",
        "if len(processes) > 1",
        "if False",
        "test_tiers.py::test_a_torn_group_is_named",
    ),
    mutation(
        "a changed shared run is not told",
        "tests/shared_run.py",
        "assert found == self.sha256",
        "assert True",
        "test_tiers.py::test_a_test_that_changes_the_run_is_found_out",
    ),
)
