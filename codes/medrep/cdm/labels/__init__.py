"""How admissions are labelled with what happened next: of stays, of diseases, and labels that the user brings.

preprocessing/labels.py is the stage, and draws each outcome. Read prediction_points.py first.
"""
