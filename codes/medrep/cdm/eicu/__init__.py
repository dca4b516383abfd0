"""The eICU Collaborative Research Database, which is not OMOP: its names as OMOP concepts.

concept_maps.py                     drugs, measurements, treatments, history and admission diagnoses by their distinct names
drug_vocabulary.py, drug_names.py   a drug's spelling as an ingredient or a clinical drug of RxNorm
"""
