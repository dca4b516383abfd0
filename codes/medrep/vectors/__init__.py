"""Concept vectors: the index and the arrays, how they are made from texts and the graph, and how they are judged.

concept_vectors, concept_index, nearest,    arrays and their rows; read concept_vectors.py first
whitening
representations, markers, published         which arrays there are, and who wrote them
texts, tokenization, masked_lm,             from definitions to text vectors
text_encoder, hub
graphs                                      from text vectors and relationships to graph vectors
concept_pairs, quality, concept_maps        what vectors know of the vocabulary
"""
