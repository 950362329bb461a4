"""Data with a sample index, augmentation, and loaders of the datasets that the recipes use."""

from keras_lstsd.data import cifar100, digits, glue, image_batches, label_noise, ptb, tokens, words
from keras_lstsd.data.augmentation import CropAndFlip
from keras_lstsd.data.batches import SampleBatches
from keras_lstsd.data.image_batches import ImageBatches
from keras_lstsd.data.images import ImageFiles, ImageRecords, image_folder
from keras_lstsd.data.index import with_sample_index
from keras_lstsd.data.order import sample_order
from keras_lstsd.data.tokens import TokenBatches

__all__ = [
    "CropAndFlip",
    "ImageBatches",
    "ImageFiles",
    "ImageRecords",
    "SampleBatches",
    "TokenBatches",
    "cifar100",
    "digits",
    "glue",
    "image_batches",
    "image_folder",
    "label_noise",
    "ptb",
    "sample_order",
    "tokens",
    "with_sample_index",
    "words",
]
