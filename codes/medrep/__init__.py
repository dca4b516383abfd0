"""What more than one stage needs: seven packages, and beside them what they all need. Read contract.py first, then tables.py.

VERSION is part of every stage's stamp: raise it when what a stage writes changes, and old output is made anew
(tests/test_version.py sees that it is).
"""

VERSION = "0.2.0"
