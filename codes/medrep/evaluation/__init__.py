"""From a labelled example to numbers: arms and their models (arms, learners, counts), metrics and their intervals, results on disk,
and important features with their ratings. Read arms.py first, then metrics.py.
"""
