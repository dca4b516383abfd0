"""Pairs that people rated: their files, made up here, and how their concepts are found."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from medrep import contract
from medrep.cdm import engine
from medrep.vectors import concept_pairs, quality, rated_pairs

UMNSRS = '"Mean","Stdev","Term1","Term2","CUI1","CUI2"\n900.5,1.5,"Pneumonia","Infection of lung","C1","C2"\n12,2,"aspirin"," Smoker ","C3","C4"\n'
EHR_REL = (
    "snomed_id_1\tsnomed_label_1\tsnomed_id_2\tsnomed_label_2\trater_A\tmean_rating\tCUI_1\n"
    "c2\tPneumonia\tc50\tAway, far\t2.0\t1.5\t\n\nc40\tSmoker\tc30\t\t\t0\tC1\n"
)


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_files_are_read_as_they_are_published(tmp_path):
    files = [write(tmp_path, "UMNSRS_similarity.csv", UMNSRS), write(tmp_path, "EHR-RelB.tsv", EHR_REL)]
    umnsrs, ehr_rel = rated_pairs.read_files(files)
    assert umnsrs.name == "UMNSRS_similarity" and umnsrs.rating.tolist() == [900.5, 12]
    assert umnsrs.ends == {"term": ["Pneumonia", "Infection of lung", "aspirin", "Smoker"]}
    assert ehr_rel.rating.tolist() == [1.5, 0]
    assert ehr_rel.ends == {"snomed_id": ["c2", "c50", "c40", "c30"], "term": ["Pneumonia", "Away, far", "Smoker", ""]}
    assert rated_pairs.read_file(write(tmp_path, "own.csv", "\ufeffconcept_id_2,concept_id_1,rating\r\n2,3,.5\r\n")).ends == {
        "concept_id": ["3", "2"]
    }


@pytest.mark.parametrize(
    "text, said",
    [
        ("rating,term1,term2\n1,a,b\nhigh,a,c\n", "pairs.csv line 3 has the rating 'high', which is no number"),
        ("rating,term1,term2\n\nnan,a,c\n", "pairs.csv line 3 has the rating 'nan', which is no number"),
        ("rating,term1,term2\n1,a, or b,c\n", "pairs.csv line 2 has 4 fields and the header 3: a name with a comma must stand in quotes"),
        ("rating,term1,term2\n1,a,b\n2,,b\n", "pairs.csv line 3 does not name both of its ends"),
        ("score,term1,term2\n1,a,b\n", "pairs.csv line 1 must name a column rating or mean or mean_rating, and .*; it names score, term1, term2"),
        ("rating,term1\n1,a\n", "pairs.csv line 1 must name a column rating"),
        ("", "pairs.csv line 1 must name a column rating .*; it names none"),
        ("rating,term1,term2\n", "pairs.csv has no pair below its header"),
        ("rating,term1,term2\n1,a,ung\udcfclich\n", "pairs.csv has a byte at line 2 that is not UTF-8"),
        (f'rating,term1,term2\n1,a,"{"b" * 140_000}"\n', "pairs.csv line 2 is not CSV: field larger"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_line(tmp_path, text, said):
    (tmp_path / "pairs.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SystemExit, match=said) as problem:
        rated_pairs.read_file(tmp_path / "pairs.csv")
    assert "\n" not in str(problem.value)


def test_a_file_that_is_not_there_and_two_of_one_name_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="absent.csv is missing"):
        rated_pairs.read_files([tmp_path / "absent.csv"])
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit, match="two files of rated pairs are called a"):
        rated_pairs.read_files([write(tmp_path, "a.csv", UMNSRS), write(tmp_path / "other", "a.tsv", EHR_REL)])


def test_the_correlation_is_scipys():
    random = np.random.default_rng(0)
    for n in (5, 40):
        rating, array = random.integers(0, 4, n) / 3, random.normal(size=(2 * n, 3))
        pairs = random.permutation(2 * n).reshape(n, 2)
        assert quality.rank_correlation(rating, array[:n, 0]) == pytest.approx(spearmanr(rating, array[:n, 0]).statistic)
        rows = quality.rated_pair_rows("x", array, pairs, rating, "set")
        if n < concept_pairs.MIN_PAIRS:
            assert rows == []
            continue
        unit = array / np.linalg.norm(array, axis=1, keepdims=True)
        cosine = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1)
        draws = [spearmanr(rating[d], cosine[d]).statistic for d in random.integers(0, n, (400, n))]
        assert rows[0]["value"] == pytest.approx(spearmanr(rating, cosine).statistic, abs=1e-4)
        assert [rows[0]["low"], rows[0]["high"]] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.06)
        assert (rows[0]["measure"], rows[0]["kind"], rows[0]["n"]) == ("similarity_rho", "set", n)
    assert quality.rank_correlation(np.ones(5), np.arange(5)) == 0


def test_concepts_are_found_by_id_code_name_or_synonym_and_the_others_counted(athena, capsys):
    with open(contract.data_folder("concepts") / "CONCEPT.csv", "a") as file:
        file.write("5\tsmoker\tObservation\tICD10CM\t3-char\t\tc2\t19700101\t20991231\t\n")  # a lower id, but not standard; nor is c2 SNOMED's
    ids, con = pa.array(["20_7", "40", "5", "2", "10", "3", "20"]), engine.connect()
    table = athena / "pairs.csv"
    table.write_text(
        "rating,term1,term2,snomed_id_1,snomed_id_2,concept_id_1,concept_id_2\n"
        "1,SMOKER,aspirin,,,,\n"
        "2,infection of lung,Lungenentzündung,,,,\n"  # two names of one concept
        "3,nothing such,aspirin,c2,,,10\n"
        "4,smoker,aspirin,c3,c999,,\n"  # the code comes before the name, and an unknown code stands in nobody's way
        "5,smoker,aspirin,c3,,2,\n"  # and an id before both
        "6,Pneumoni,aspirin,,,,\n"
        "7,Far away,aspirin,,,,\n"  # a concept, but not of the index
        "8,Hemoglobin A1c,aspirin,,,,999\n"
    )
    pairs = rated_pairs.read_file(table)
    expected = [[1, 4], [3, 3], [3, 4], [5, 4], [3, 4], [-1, 4], [-1, 4], [6, 4]]
    assert rated_pairs.find_concept_rows(con, ids, pairs).tolist() == expected
    rows, rating = rated_pairs.choose_asked_pairs(con, ids, pairs)
    assert rows.tolist() == [row for row in expected if row[0] not in (-1, row[1])] and rating.tolist() == [1, 3, 4, 5, 8]
    assert "pairs: 8 rated pairs; 5 of two concepts of the index, 2 not found, 1 of one concept" in capsys.readouterr().out
    (contract.data_folder("concepts") / "CONCEPT_SYNONYM.csv").unlink()  # an optional table
    assert rated_pairs.find_concept_rows(con, ids, pairs)[:2].tolist() == [[1, 4], [-1, -1]]
