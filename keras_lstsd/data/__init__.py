"""Data that carries each sample's index, and the data sets of the recipes."""

from keras_lstsd.data import cifar100, digits, glue, tokens, words
from keras_lstsd.data.augmentation import CropAndFlip
from keras_lstsd.data.indexing import with_sample_index
from keras_lstsd.data.pipeline import SampleBatches, sample_order
from keras_lstsd.data.tokens import TokenBatches

__all__ = [
    "CropAndFlip",
    "SampleBatches",
    "TokenBatches",
    "cifar100",
    "digits",
    "glue",
    "sample_order",
    "tokens",
    "with_sample_index",
    "words",
]
