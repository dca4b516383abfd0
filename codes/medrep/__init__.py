"""What more than one stage needs: the contract between stages, the OMOP reader, the models.

VERSION is part of every stage's stamp: raise it when what a stage writes changes, and old output is made anew.
"""

VERSION = "0.1.0"
