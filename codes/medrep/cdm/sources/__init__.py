"""Where tables come from: OMOP files and MEDS datasets, all read into the columns of columns.py, and Athena's vocabulary."""
