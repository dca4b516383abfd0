"""A hospital's tables in the OMOP common data model, as Ibis expressions that run on DuckDB or Spark.

engine.py, spark.py, spill.py             what runs them, and where it puts what memory cannot hold
hospital_tables.py, sources/, eicu/       a hospital's tables from OMOP files, MEDS or eICU's, and Athena's vocabulary
meds_codes.py, meds_stays.py, meds_values.py      what codes and values of a MEDS dataset mean, and the stays that they tell
table_files.py, parsing.py, clocks.py     rows of files as text; text as numbers and times; times with a zone
rules.py, plausible_dates.py              which rows are left out, and why; audit_findings.py, what tells too early
outcomes.py, labels/                      what is predicted, and how admissions are labelled with it
Read engine.py first, then hospital_tables.py.
"""
