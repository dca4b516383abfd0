"""The eICU Collaborative Research Database, converted to OMOP CDM 5.4. Read stays.py first: the calendar that all times hang on.

stays.py          persons, visits, deaths, and the calendar          conditions.py     diagnoses, past history, admission diagnoses
files.py          the tables as PhysioNet gives them                 drugs.py          orders, infusions, drugs before admission
events.py         rows of a table, each at the time it is known      measurements.py   labs, vitals, APACHE variables
concept_maps.py   names to concepts                                  procedures.py     treatments

preprocessing/eicu.py puts them together. The tables: https://eicu-crd.mit.edu/eicutables
"""
