"""Concepts and tokens: names and relationships of concepts, their ancestors, and the numbers of a hospital's tokens.

Read token_vocabulary.py first.
"""
