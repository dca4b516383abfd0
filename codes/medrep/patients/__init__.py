"""Patient models of the BEHRT family, from sequences of events to a finished run.

sequences, examples, index_stays   what a model reads, and which of it is of the stay that is asked about
hospital_stamps                    whether another hospital's labels and deciles mean what home's do
input_mapping, batches             how it reads a hospital's vocabulary, and in which batches
record_features                    numbers and averages of an example's whole record
behrt, pretraining                 the models (behrt_config, embeddings, packed_attention: their parts), and what they are pretrained to tell
fitting, finished_runs             the training loop, and what says that a run is whole

Read sequences.py first, then behrt.py.
"""
