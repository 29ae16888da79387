"""Mutations of the statistics and of the noise."""

from __future__ import annotations

from mutation import mutation

GUARANTEES = "rrise/calibration/guarantees.py"
CONFORMAL = "rrise/calibration/conformal.py"
JOINT = "rrise/calibration/joint.py"
PROMISE = "rrise/promise.py"
CURVES = "rrise/calibration/curves.py"
MONTE_CARLO = "rrise/stages/monte_carlo.py"
SERVICE = "rrise/stages/service.py"
PASSES = "rrise/stages/more_passes.py"

STATISTICS = (
    # Statistics
    mutation(
        "marginal rank one too low",
        GUARANTEES,
        "    return rank\n",
        "    return rank - 1\n",
        "test_guarantees.py::test_marginal_coverage_holds_where_it_is_tight",
    ),
    mutation(
        "training-conditional rank one too low",
        GUARANTEES,
        "return M - allowed",
        "return M - allowed - 1",
        "test_guarantees.py::test_training_conditional_coverage_holds_where_it_is_tight",
    ),
    mutation(
        "eta ignored",
        GUARANTEES,
        "most_failures(_images(M), gamma, eta)",
        "most_failures(_images(M), gamma, 0.5)",
        "test_guarantees.py::test_training_conditional_coverage_holds_where_it_is_tight",
    ),
    mutation(
        "beta dropped: shares of the draws in place of bounds",
        CONFORMAL,
        "bounds = clopper_pearson(successes, draws, beta)",
        "bounds = successes / draws",
        "test_conformal.py::test_the_curve_is_the_family_at_the_ranked_score",
    ),
    mutation(
        "cap beta^(1/n) dropped",
        CONFORMAL,
        "cap = require_cap(common, beta)",
        "cap = 1.0",
        "test_conformal.py::test_n_draws_cannot_support_more_than_the_cap",
    ),
    mutation(
        "the promise is gamma in place of gamma / (1 - beta)",
        PROMISE,
        "share / (1 - level)",
        "share",
        "test_guarantees.py::test_gamma_alone_is_detected_as_too_small_a_promise",
    ),
    mutation(
        "more passes promise gamma / (1 - beta) in place of the sum",
        PROMISE,
        "level + share if shared_draws else ",
        "",
        "test_more_passes.py::test_the_sharper_promise_does_not_hold_where_score_and_bound_share_their_draws",
    ),
    mutation(
        "the smallest score over the noise levels in place of the largest",
        JOINT,
        "np.max(each, axis=0)",
        "np.min(each, axis=0)",
        "test_joint.py::test_bounds_at_all_sigma_hold_together",
    ),
    mutation(
        "eta not split over the bins",
        "rrise/calibration/bins.py",
        'exact("eta", eta) / bins',
        'exact("eta", eta)',
        "test_bins.py::test_each_bin_has_the_rank_of_its_own_inputs",
    ),
    mutation(
        "the largest weight alone stands for a new input under priors",
        "rrise/calibration/shift.py",
        "max(weights) + (allowed + spare) / (1 + fewest))",
        "max(weights))",
        "test_shift.py::test_no_separated_classes_break_the_promise",
    ),
    mutation(
        "one failure too many in a test of a curve",
        "rrise/calibration/certified.py",
        "wrong > most_failures(certified, gamma, eta)",
        "wrong > most_failures(certified, gamma, eta) + 1",
        "test_certified.py::test_the_walk_stops_at_the_first_curve_that_is_not_accepted",
    ),
    mutation(
        "a bound rounded up",
        "rrise/calibration/bounds.py",
        "return np.where(1 - p < u, np.nextafter(p, 0.0), p)",
        "return np.nextafter(p, 1.0)",
        "test_bounds.py::test_all_draws_succeeding_gives_the_root_of_alpha",
    ),
    mutation(
        "knots of a curve rounded up",
        CURVES,
        "math.nextafter(nearest, -math.inf) if Fraction(nearest) > value",
        "math.nextafter(nearest, math.inf) if Fraction(nearest) < value",
        "test_curves.py::test_knots_are_a_curve_that_the_kernel_takes_and_never_above_the_family",
    ),
    mutation(
        "scores rounded down",
        CURVES,
        "+ 2e-15) / u * (1 + 2e-15)",
        "- 2e-15) / u * (1 - 2e-15)",
        "test_curves.py::test_scores_invert_the_family",
    ),
    mutation(
        "q_m divided wrongly",
        "rrise/calibration/combined.py",
        "(kappa * x + agreeing) / (kappa + m)",
        "(kappa * x + agreeing) / (kappa + m - 1)",
        "test_more_passes.py::test_the_score_lies_between_q_and_the_share_of_draws_and_keeps_to_the_unit_interval",
    ),
    mutation(
        "an audit refutes by the share of its draws",
        "rrise/audit/eprocess.py",
        "1 - clopper_pearson(n - k, n, b) < p_lower",
        "k / n < p_lower",
        "test_eprocess.py::test_a_true_certificate_is_refuted_with_probability_at_most_b",
    ),
    mutation(
        "an audit forgets that a true certificate may be refuted",
        "rrise/audit/settings.py",
        "decimal(error) + decimal(level)",
        "decimal(error)",
        "test_auditor.py::test_an_alarm_is_raised_where_it_is_due_only",
    ),
    # Noise
    mutation(
        "Monte Carlo picks and bounds a class on the same draws",
        MONTE_CARLO,
        "noisy.counts(n, ESTIMATION), alpha",
        "noisy.counts(n, SELECTION), alpha",
        "test_monte_carlo.py::test_all_three_agree_with_the_functions_of_counts_and_spend_no_more",
    ),
    mutation(
        "selection and estimation share a stream",
        "rrise/targets/noise.py",
        "ESTIMATION: Final = 2",
        "ESTIMATION: Final = 1",
        "test_noise.py::test_every_stream_has_a_number_and_a_name_of_its_own",
    ),
    mutation(
        "selection and estimation counts of the same noise accepted",
        "rrise/evaluation/baselines.py",
        "if noise in seen:",
        "if False:",
        "test_baselines.py::test_counts_of_the_same_noise_are_refused",
    ),
    mutation(
        "adaptive stopping by a bound of a fixed number of draws",
        MONTE_CARLO,
        'bound="mixture"',
        'bound="plain"',
        "test_monte_carlo.py::test_all_three_agree_with_the_functions_of_counts_and_spend_no_more",
    ),
    mutation(
        "seed of served noise is 0",
        SERVICE,
        "secrets.randbits(64)",
        "0",
        "test_secret_seeds.py::test_served_noise_is_secret_unless_a_seed_is_given",
    ),
    mutation(
        "seed of more passes is 0",
        PASSES,
        "noisy_source(loaded, classifier, seed=seed,",
        "noisy_source(loaded, classifier, seed=seed or 0,",
        "test_secret_seeds.py::test_served_noise_is_secret_unless_a_seed_is_given",
    ),
    mutation(
        "seed of the audit's choice is 0",
        "rrise/audit/auditor.py",
        "secrets.randbits(128)",
        "0",
        "test_secret_seeds.py::test_an_auditor_s_choice_is_secret_unless_a_seed_is_given",
    ),
    mutation(
        "an auditor draws the same numbers after a restart",
        "rrise/audit/auditor.py",
        "else seed, record.start]",
        "else seed, 0]",
        "test_auditor.py::test_no_random_number_is_used_twice_over_restarts_and_crashes",
    ),
    mutation(
        "all audits share their draws",
        SERVICE,
        "ids=np.array([name], np.uint64)",
        "ids=np.array([0], np.uint64)",
        "test_secret_seeds.py::test_every_answer_in_service_has_noise_of_its_own",
    ),
    mutation(
        "all calls of a Monte Carlo certifier share their draws",
        SERVICE,
        "self._next += len(images)",
        "self._next += 0",
        "test_secret_seeds.py::test_every_answer_in_service_has_noise_of_its_own",
    ),
    mutation(
        "a store of counts goes on with other settings",
        "rrise/targets/manifest.py",
        "pairs if old != new]:",
        "pairs if False]:",
        "test_store.py::test_a_manifest_that_differs_is_refused_naming_field_and_both_values",
    ),
)
