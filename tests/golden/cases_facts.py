"""Cases that are rules in words, without numbers: the behaviour of the data processing stages and of the trainings."""

from tests.golden.harness import facts_only

facts_only("preprocess_facts", "training_facts")
