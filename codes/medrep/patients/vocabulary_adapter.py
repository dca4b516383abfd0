"""How one pretrained model reads the tokens of any hospital."""

from medrep.patients import behrt
from medrep.patients.input_mapping import InputMapping, make_input_mapping
from medrep.vocabulary import token_vocabulary


class VocabularyAdapter:
    """How a pretrained model reads each hospital's tokens; every hospital's vectors are gathered once."""

    def __init__(self, model_vocabulary: token_vocabulary.Vocabulary, rep: str, values_apart: bool = False):
        """`values_apart`: as the model was made (ModelConfig.values_apart)."""
        self.model_vocabulary, self.rep, self.values_apart, self.mappings = model_vocabulary, rep, values_apart, {}

    def vocabulary(self, hospital: str) -> token_vocabulary.Vocabulary:
        """The hospital's, as the model reads it: of concepts alone where values stand apart."""
        whole = token_vocabulary.load_hospital_vocabulary(hospital)
        return whole.without_deciles() if self.values_apart else whole

    def __call__(self, hospital: str, oov: str = "unk") -> InputMapping:
        key = (hospital, oov if self.rep == "none" else "unk")
        if key not in self.mappings:
            whole = token_vocabulary.load_hospital_vocabulary(hospital)
            self.mappings[key] = make_input_mapping(whole, self.rep, self.model_vocabulary, key[1], self.values_apart)
        return self.mappings[key]

    def adapt(self, model, hospital: str, oov: str = "unk") -> InputMapping:
        """Let the model read `hospital`: its vectors take the place of the concept table; nothing else changes."""
        input_mapping = self(hospital, oov)
        if input_mapping.vectors is not None:
            encoder = model if isinstance(model, behrt.BehrtEncoder) else model.encoder
            encoder.set_concept_vectors(input_mapping.vectors, rescale=False)
        return input_mapping
