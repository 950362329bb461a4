"""The networks of the papers, as functional Keras models that need no part of this library."""

from keras_lstsd.backbones.bert import BERT_SIZES, bert
from keras_lstsd.backbones.cifar_densenet import cifar_densenet
from keras_lstsd.backbones.cifar_resnet import cifar_resnet
from keras_lstsd.backbones.preact_resnet import preact_resnet
from keras_lstsd.backbones.resnext import resnext
from keras_lstsd.backbones.text_cnn import text_cnn
from keras_lstsd.backbones.wide_resnet import wide_resnet

__all__ = [
    "BERT_SIZES",
    "bert",
    "cifar_densenet",
    "cifar_resnet",
    "preact_resnet",
    "resnext",
    "text_cnn",
    "wide_resnet",
]
