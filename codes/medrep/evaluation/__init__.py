"""From a labelled example to numbers: arms, what learns in them (learner; finetuned_model, linear_probe, count_model, pooled; how strong
penalties are: regularization) and runs,
metrics with their intervals and tests (weighted_test, bootstrap, calibration, metrics, significance), results on disk and their comparison
(results, comparison), and important features with their ratings. Read arms.py and runs.py first, then metrics.py.
"""
