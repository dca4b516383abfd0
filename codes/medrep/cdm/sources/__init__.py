"""Where tables come from, all in one form: OMOP files and MEDS datasets. Read omop.py first."""
