"""What the template composes."""

from medrep.vocabulary import definition_template


def test_texts_and_keys_stay_as_they_are():
    facts = {
        "name": "Pneumonia",
        "domain": "Condition",
        "kind": "Disorder",
        "synonyms": ["Lung infection"],
        "features": {"a kind of": ["Disorder of lung"]},
    }
    row = definition_template.by_template(facts, 9)
    assert row["text"] == (
        "Pneumonia (10th decile): condition (disorder). A value in the 10th of ten tenths of all values: very high. "
        "It is a kind of Disorder of lung. Also called Lung infection."
    )
    # a key that changes makes everyone's encoder train anew: raise TEMPLATE with the template, and only then
    assert row["key"] == "1ff5e88242b8374f4df2aeb45fea5048"
