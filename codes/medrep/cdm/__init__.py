"""A hospital's tables in the OMOP common data model, as Ibis expressions that run on DuckDB or Spark.

engine and spark run them, sources read them (OMOP files, MEDS, Athena's vocabulary), rules count what is left out and why,
outcomes say what is predicted. Read engine.py first, then hospital_tables.py.
"""
