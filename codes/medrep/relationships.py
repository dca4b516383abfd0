"""Which of OMOP's relationships become edges of the graph: hierarchical ones and mappings, each by both of its names."""

# Each line is a relationship_id and its reverse. Hierarchical ones are those that RELATIONSHIP.csv of Athena calls so or that name
# a whole and its parts or a class and its members, as ATC's links to RxNorm do. What is left out says what a concept is like,
# not what it is: its site, its morphology, its dose form; such an end has thousands of concepts that have little else in common.
HIERARCHICAL = """
Is a, Subsumes
RxNorm is a, RxNorm inverse is a
RxNorm has ing, RxNorm ing of
Has precise ing, Precise ing of
Has form, Form of
Consists of, Constitutes
Contains, Contained in
Has quantified form, Quantified form of
Has tradename, Tradename of
Available as box, Box of
Has marketed form, Marketed form of
Panel contains, Contained in panel
ATC - RxNorm, RxNorm - ATC
ATC - RxNorm name, RxNorm - ATC name
ATC - RxNorm pr lat, RxNorm - ATC pr lat
ATC - RxNorm sec lat, RxNorm - ATC sec lat
ATC - RxNorm pr up, RxNorm - ATC pr up
ATC - RxNorm sec up, RxNorm - ATC sec up
Drug class of drug, Drug has drug class
Inferred class of, Has inferred class
NDFRT has ing, NDFRT ing of
ETC - RxNorm, RxNorm - ETC
SMQ - MedDRA, MedDRA - SMQ
SNOMED cat - CPT4, CPT4 - SNOMED cat
SNOMED proc - HCPCS, HCPCS - SNOMED proc
SNOMED meas - HCPCS, HCPCS - SNOMED meas
"""
MAPPING = """
Maps to, Mapped from
Concept replaced by, Concept replaces
Concept same_as to, Concept same_as from
Concept poss_eq to, Concept poss_eq from
Concept was_a to, Concept was_a from
Concept alt_to to, Concept alt_to from
RxNorm replaced by, RxNorm replaces
LOINC replaced by, LOINC replaces
ICD9P replaced by, ICD9P replaces
SPL - RxNorm, RxNorm - SPL
CVX - RxNorm, RxNorm - CVX
Source - RxNorm eq, RxNorm - Source eq
SNOMED - RxNorm eq, RxNorm - SNOMED eq
SNOMED - ATC eq, ATC - SNOMED eq
SNOMED - CPT4 eq, CPT4 - SNOMED eq
SNOMED - ICD9P eq, ICD9P - SNOMED eq
SNOMED - LOINC eq, LOINC - SNOMED eq
SNOMED - MedDRA eq, MedDRA - SNOMED eq
SNOMED - NDFRT eq, NDFRT - SNOMED eq
SNOMED - VA Class eq, VA Class - SNOMED eq
SNOMED - OPCS4, OPCS4 - SNOMED
LOINC - CPT4 eq, CPT4 - LOINC eq
MedDRA - ICD9CM, ICD9CM - MedDRA
RxNorm - NDFRT eq, NDFRT - RxNorm eq
RxNorm - NDFRT name, NDFRT - RxNorm name
RxNorm - VAProd eq, VAProd - RxNorm eq
NDFRT - VAProd, VAProd - NDFRT
NDFRT to ATC eq, ATC to NDFRT eq
NDFRT to VA Class eq, VA Class to NDFRT eq
ATC to VA Class eq, VA Class to ATC eq
"""
