"""What leaves the hospital when a model or vectors are published: weights without what few persons have, code, a card, and the check of all of it.

Read contents.py first: it puts a published folder together of what the others make.
"""
