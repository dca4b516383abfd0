"""The demo's stand-in for a medical language model: it is asked over HTTP, and knows what the generator means."""

import json

import openai

from demo import physician, terminology
from experiments import medgemma
from medrep.evaluation import ratings


def test_severe_facts_are_high_and_high_values_moderate_in_the_form_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    severe = physician.severe_names()
    vocabulary = terminology.build(0)
    lung = vocabulary.facts["condition", "lung", 1][0][0]
    names = [
        vocabulary.concepts.set_index("concept_id").name[lung],
        "Stable lung infection",
        "Lactate [Mass/volume] in Blood (10th decile)",
        "Lactate [Mass/volume] in Blood (2nd decile)",
        "Lung infection",
    ]
    assert names[0] in severe and 300 < len(severe) < len(vocabulary.concepts)
    prompt = ratings.RatingPrompt("", medgemma.read_rating_prompt()["user"], "").text(names, 0)
    server = physician.serve(severe)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")
    answer = client.chat.completions.create(model="any", messages=[{"role": "system", "content": "s"}, {"role": "user", "content": prompt}])
    server.shutdown()
    said = answer.choices[0].message.content
    assert json.loads(said) == {"1": "High", "2": "Low", "3": "Moderate", "4": "Low", "5": "Low"}
    assert list(ratings.parse_answer(said, 5).values()) == ["High", "Low", "Moderate", "Low", "Low"]
