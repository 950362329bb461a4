"""Data that carries each sample's index, and the data sets of the recipes."""

from keras_lstsd.data import cifar100, digits, glue, words
from keras_lstsd.data.augmentation import CropAndFlip
from keras_lstsd.data.indexing import with_sample_index
from keras_lstsd.data.pipeline import SampleBatches, sample_order

__all__ = [
    "CropAndFlip",
    "SampleBatches",
    "cifar100",
    "digits",
    "glue",
    "sample_order",
    "with_sample_index",
    "words",
]
