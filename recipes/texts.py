"""Texts of GLUE as inputs of a network, and the networks that take them."""

import time

import keras
import numpy as np

from keras_lstsd import backbones
from keras_lstsd.data import SampleBatches, TokenBatches, glue, tokens, words
from recipes import runs

# Words in a row of the CNN: at least three in four sentences of the task are not longer, as padding
# costs time. Those of the second line are estimates.
LENGTHS = {"rte": 80, "mrpc": 56, "cola": 16, "sst2": 24}
LENGTHS |= {"qnli": 64, "qqp": 32, "mnli": 48, "wnli": 48}


class Words:
    """A task for the CNN: sentences as numbers of words of the training sentences."""

    def __init__(self, task: str, train: glue.Examples, settings: dict):
        self.task = task
        self.settings = settings
        self.vocabulary = words.build_vocabulary(train.first + (train.second or []))

    def encode(self, split: glue.Examples) -> np.ndarray:
        return words.encode(split.first, split.second, self.vocabulary, LENGTHS[self.task])

    def batches(self, x: np.ndarray, y: np.ndarray) -> SampleBatches:
        return SampleBatches(x, y, batch_size=self.settings["batch_size"])

    def student(self) -> keras.Model:
        bound = self.settings["word_bound"]
        uniform = keras.initializers.RandomUniform
        return backbones.text_cnn(
            words.FIRST_WORD + len(self.vocabulary),
            num_classes=len(glue.TASKS[self.task].classes),
            length=LENGTHS[self.task],
            embedding_dim=self.settings["embedding_dim"],
            filters=self.settings["filters"],
            embeddings_initializer=None if bound is None else uniform(-bound, bound),
        )


class Pieces:
    """A task for BERT or a bi-LSTM: texts as numbers of word pieces."""

    def __init__(self, task: str, train: glue.Examples, settings: dict):
        self.task = task
        self.settings = settings
        self.classes = len(glue.TASKS[task].classes)
        self.vocabulary = settings["vocabulary"]
        if self.vocabulary is None and not (settings["bert"] or settings["teacher"]):
            known = words.build_vocabulary(train.first + (train.second or []))
            self.vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]
        self.preprocessor = self._bert(settings["bert"] or settings["teacher"]).preprocessor
        if self.vocabulary is None and not settings["bert"]:
            # A student with random weights has the teacher's word pieces.
            self.vocabulary = self.preprocessor.tokenizer.get_vocabulary()

    def encode(self, split: glue.Examples) -> dict[str, np.ndarray]:
        start = time.monotonic()
        x = tokens.encode(self.preprocessor, split.first, split.second, self.settings["cache"])
        seconds = time.monotonic() - start
        cut = np.mean(x["padding_mask"].sum(-1) == self.settings["sequence_length"])
        rate = len(split.first) / seconds
        runs.progress(
            f"{self.task}: {len(split.first)} texts tokenized in {seconds:.1f} s ({rate:.0f}/s); "
            f"{100 * cut:.1f} % fill all {self.settings['sequence_length']} tokens."
        )
        return x

    def batches(self, x: dict, y: np.ndarray) -> TokenBatches:
        lengths = 16 if self.settings["dynamic_length"] else None
        batches = TokenBatches(x, y, lengths=lengths, batch_size=self.settings["batch_size"])
        padded = 100 * (1 - x["padding_mask"].mean())
        runs.progress(
            f"{self.task}: {100 * batches.padding_share():.1f} % of the positions in training are "
            f"padding; {padded:.1f} % if all texts had {self.settings['sequence_length']} tokens."
        )
        return batches

    def student(self) -> keras.Model:
        network = self._bert(self.settings["bert"])
        layers = self.settings["student_layers"]
        return backbones.bert_of_layers(network, [*map(int, layers)]) if layers else network

    def teacher(self) -> keras.Model:
        """The BERT of --teacher, not fine-tuned yet."""
        return self._bert(self.settings["teacher"])

    def _bert(self, weights: str | None) -> keras.Model:
        return backbones.bert(
            self.classes,
            weights=weights,
            vocabulary=self.vocabulary,
            size=self.settings["bert_size"],
            sequence_length=self.settings["sequence_length"],
        )


class BiLSTM(Pieces):
    """A task for a bi-LSTM on the inputs of BERT."""

    def student(self) -> keras.Model:
        inputs = {
            name: keras.Input((None,), dtype="int32", name=name)
            for name in ("token_ids", "segment_ids", "padding_mask")
        }
        words = self.preprocessor.tokenizer.vocabulary_size()
        return keras.Model(inputs, backbones.bilstm(words, self.classes)(inputs["token_ids"]))


ENCODERS = {"cnn": Words, "bert": Pieces, "bilstm": BiLSTM}
