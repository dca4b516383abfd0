"""Where tables come from. Read columns.py first.

columns.py   the columns that every source gives        omop.py     OMOP files, and their dialects
meds.py      MEDS datasets                              athena.py   Athena's vocabulary in data/concepts
eicu.py      eICU's tables, converted to OMOP files    database.py   a hospital's database, whose tables become OMOP files
"""
