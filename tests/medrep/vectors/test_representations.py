"""The names of representations."""

import argparse

import pytest

from medrep import contract
from medrep.vectors import representations


def test_arms_are_accepted_by_name_or_path_and_others_are_named(capsys, tmp_path):
    parser = argparse.ArgumentParser()
    representations.add_rep_argument(parser, "--rep-type")
    for arm in ("none", "random", "name", "description", "medrep", "medtok", "keep"):
        assert parser.parse_args(["--rep-type", arm]).rep_type == arm
    path = parser.parse_args(["--rep-type", "some/mine.npy"]).rep_type
    assert path.endswith("/some/mine.npy") and contract.rep_name(path) == "mine" and str(contract.concept_array_file(path)) == path
    for wrong, words in (
        ("word2vec", "choose from none, random, name, description, medrep, medtok, keep, or give the path"),
        ("some/medrep.npy", "would be taken for the arm medrep"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(["--rep-type", wrong])
        assert words in capsys.readouterr().err
