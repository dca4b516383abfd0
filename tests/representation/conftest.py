"""A miniature Athena download and a hospital that uses some of it; every stage runs on it in seconds."""

import ibis
import numpy as np
import pytest

from medrep import contract
from medrep.cdm.engine import connect
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_index
from medrep.vocabulary import token_vocabulary
from representation import encoder

from ..forked import Forked

CONCEPT = """\
concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\tvalid_start_date\tvalid_end_date\tinvalid_reason
1\tDisorder of lung\tCondition\tSNOMED\tDisorder\tS\tc1\t19700101\t20991231\t
2\tPneumonia\tCondition\tSNOMED\tDisorder\tS\tc2\t19700101\t20991231\t
3\tViral pneumonia\tCondition\tSNOMED\tDisorder\tS\tc3\t19700101\t20991231\t
10\taspirin\tDrug\tRxNorm\tIngredient\tS\tc10\t19700101\t20991231\t
11\taspirin 100 MG Oral Tablet\tDrug\tRxNorm\tClinical Drug\tS\tc11\t19700101\t20991231\t
12\tOral Tablet\tDrug\tRxNorm\tDose Form\t\tc12\t19700101\t20991231\t
20\tHemoglobin A1c\tMeasurement\tLOINC\tLab Test\tS\tc20\t19700101\t20991231\t
21\tNA\tMeasurement\tLOINC\tLab Test\tS\tc21\t19700101\t20991231\t
30\t"Quoted\tProcedure\tSNOMED\tProcedure\tS\tc30\t19700101\t20991231\t
40\tSmoker\tObservation\tSNOMED\tClinical Finding\tS\tc40\t19700101\t20991231\t
41\tNever smoked\tObservation\tSNOMED\tClinical Finding\tS\tc41\t19700101\t20991231\t
50\tFar away\tCondition\tSNOMED\tDisorder\tS\tc50\t19700101\t20991231\t
"""
RELATIONSHIP = [
    (2, 1, "Is a", ""),
    (1, 2, "Subsumes", ""),
    (3, 2, "Is a", ""),
    (2, 3, "Subsumes", ""),
    (2, 2, "Maps to", ""),
    (11, 10, "RxNorm has ing", ""),
    (10, 11, "RxNorm ing of", ""),
    (11, 12, "RxNorm has dose form", ""),
    (2, 50, "Concept replaces", "D"),
    (40, 41, "Is a", ""),
    (20, 21, "Has system", ""),
    (21, 20, "System of", ""),
    (2, 999, "Is a", ""),
]
TOKENS = ["2", "11", "20", "20_7", "30", "40", "777", "778_3"]  # 777 and 778 are not in CONCEPT


def write_vocabulary(hospital, tokens):
    special, zeros = token_vocabulary.SPECIAL_TOKENS, (0,) * len(token_vocabulary.SPECIAL_TOKENS)
    counts = zeros + tuple(range(1, len(tokens) + 1))
    token_vocabulary.Vocabulary(special + tuple(tokens), counts, counts).save(contract.vocabulary_file(hospital))
    (contract.data_folder(hospital)).mkdir(parents=True, exist_ok=True)


def write_athena(root, relationship=RELATIONSHIP, ancestor=None):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "CONCEPT.csv").write_text(CONCEPT)
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text(
        "CONCEPT_ID_1\tCONCEPT_ID_2\tRELATIONSHIP_ID\tVALID_START_DATE\tVALID_END_DATE\tINVALID_REASON\n"
        + "".join(f"{a}\t{b}\t{name}\t19700101\t20991231\t{reason}\n" for a, b, name, reason in relationship)
    )
    (folder / "CONCEPT_SYNONYM.csv").write_text(
        "concept_id\tconcept_synonym_name\tlanguage_concept_id\n2\tInfection of lung\t4180186\n2\tLungenentzündung\t4182504\n"
        "2\tpneumonia\t4180186\n2\tPneumonitis; infectious; acute\t4180186\n"
    )
    if ancestor is not None:
        (folder / "CONCEPT_ANCESTOR.csv").write_text(
            "ancestor_concept_id\tdescendant_concept_id\tmin_levels_of_separation\tmax_levels_of_separation\n"
            + "".join(f"{a}\t{d}\t{level}\t{level}\n" for a, d, level in ancestor)
        )


SMALL = {
    "models/behrt.yaml": "model: {hidden_size: 16}\n",
    "graph.yaml": "objective: grace\nhidden_size: 24\nepochs: 3\nbatch_size: 8\n",
    "encoder.yaml": "model: none\ntraining: masked\nhidden_size: 16\nnum_layers: 1\nnum_heads: 2\nintermediate_size: 16\nvocab_size: 400\n"
    "max_length: 48\nepochs: 2\nlearning_rate: 1.0e-2\nbatch_tokens: 256\npooling: mean\n",
}


@pytest.fixture
def small_root(root, monkeypatch):
    """An empty root with small settings: vectors are 16 wide."""
    for file, text in SMALL.items():
        (root / "configs" / file).parent.mkdir(parents=True, exist_ok=True)
        (root / "configs" / file).write_text(text)
    monkeypatch.setenv("MEDREP_CONFIGS", str(root / "configs"))
    return root


@pytest.fixture
def athena(small_root):
    """`small_root` with the vocabulary and a hospital's tokens."""
    write_athena(small_root)
    write_vocabulary("mimic", TOKENS)
    return small_root


@pytest.fixture
def put_published(small_root):
    """A function that puts published files there, as a user would, and gives their bytes."""

    def put(ids=("1", "2", "20", "20_7"), reps=("medrep", "description"), rows=None, width=16, kind=np.float32):
        folder = contract.representation_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if ids is not None:
            (folder / "concept_idx.csv").write_text("concept_id\n" + "".join(f"{i}\n" for i in ids))
        for rep in reps:
            np.save(folder / f"concept_representation_{rep}.npy", np.arange((rows or len(ids or "4444")) * width).reshape(-1, width).astype(kind))
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    return put


WORDS = "acute chronic pain of left right lung heart kidney tablet solution oral serum level structure finding disorder with without due to".split()


@pytest.fixture
def many_texts(small_root):
    """`small_root` with an index and definitions of 300 concepts, some the same and two longer than the model reads, and an untrained encoder."""
    random = np.random.default_rng(0)
    texts = [f"{i} " + " ".join(random.choice(WORDS, random.integers(1, 15))) for i in range(300)]
    texts[7] = texts[200] = texts[11]
    texts[40], texts[41] = " ".join(["40", *WORDS * 8]), " ".join(["41", *WORDS * 9])
    ids = [str(1000 + i) for i in range(300)]
    concept_index.write_concept_index(ids)
    rows = ibis.memtable([(i, text, "template", "", "k") for i, text in zip(ids, texts, strict=True)], schema=DEFINITIONS.schema)
    DEFINITIONS.write(connect(), rows)
    encoder.main(["--gpu-devices", "cpu", "--set", "encoder.epochs=0"])
    return texts


@pytest.fixture
def python(root):
    """A function that starts a fork of a Python process which runs `code` below `root`."""

    def start(code, **more):
        return Forked(code, environment={"MEDREP_ROOT": str(root)}, **more)

    return start
