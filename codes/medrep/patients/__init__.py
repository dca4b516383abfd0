"""Patient models: sequences of events (sequences, examples), the BEHRT family (behrt), and how it is trained (training, fitting).

Read sequences.py first, then behrt.py.
"""
