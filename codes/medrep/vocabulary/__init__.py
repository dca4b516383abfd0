"""Concepts and tokens. Read token_vocabulary.py first.

token_vocabulary.py      a hospital's tokens and their numbers
terminology.py           names and kinds of concepts, and whether relationships have both ends
ancestors.py             a concept's ancestors, and what is read for a token that is not known
concept_facts.py         what data/concepts says of a concept for its definition
definition_template.py   definitions composed of those facts
holdout.py               the pairs of concepts that are held out for representation/evaluate.py
"""
