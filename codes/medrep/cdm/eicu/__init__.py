"""The eICU Collaborative Research Database, converted to OMOP CDM 5.4. Read stays.py first: the calendar that all times hang on.

stays.py, people.py                 the calendar; persons, visits and deaths
files.py, events.py                 the tables as PhysioNet gives them; their rows, each at the time it is known
conditions.py, drugs.py, measurements.py, procedures.py      the four tables of events
concept_maps.py, icd_codes.py       names and codes as OMOP concepts
meds_names.py                       the same for the codes of eICU_MEDS's dataset
drug_names.py, drug_vocabulary.py   a drug's spelling as an ingredient or a clinical drug of RxNorm

preprocessing/eicu.py puts them together. The tables: https://eicu-crd.mit.edu/eicutables
"""
