"""Concepts and tokens: names, relationships and ancestors of concepts, definitions composed from them, and the numbers of a hospital's tokens.

Read token_vocabulary.py first.
"""
