"""The sections of a first look at a hospital (experiments/explore.py), before anything is trained. Read readable.py first.

readable.py    what has a vector, and the concepts that have none    history.py    what persons have over time
power.py       labels, and how sure an AUROC of them would be        stages.py     what has not been run

They compute what they show, as no stage has; a section whose stages have not been run is left out.
"""
