"""Concept vectors: the arrays (concept_vectors), what they are made from (texts, text_encoder, graphs) and nearest neighbours.

Read concept_vectors.py first.
"""
