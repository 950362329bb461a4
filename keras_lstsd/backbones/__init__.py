"""The networks of the papers, as functional Keras models that need no part of this library."""

from keras_lstsd.backbones.bert import BERT_SIZES, bert, bert_of_layers
from keras_lstsd.backbones.bilstm import bilstm
from keras_lstsd.backbones.cifar_densenet import cifar_densenet
from keras_lstsd.backbones.cifar_resnet import cifar_resnet
from keras_lstsd.backbones.lstm import ResetStates, lstm
from keras_lstsd.backbones.mobilenet_v2 import mobilenet_v2
from keras_lstsd.backbones.preact_resnet import preact_resnet
from keras_lstsd.backbones.resnet50 import resnet50
from keras_lstsd.backbones.resnext import resnext
from keras_lstsd.backbones.shufflenet import shufflenet_v1, shufflenet_v2
from keras_lstsd.backbones.text_cnn import text_cnn
from keras_lstsd.backbones.vgg import vgg
from keras_lstsd.backbones.wide_resnet import wide_resnet

__all__ = [
    "BERT_SIZES",
    "ResetStates",
    "bert",
    "bert_of_layers",
    "bilstm",
    "cifar_densenet",
    "cifar_resnet",
    "lstm",
    "mobilenet_v2",
    "preact_resnet",
    "resnet50",
    "resnext",
    "shufflenet_v1",
    "shufflenet_v2",
    "text_cnn",
    "vgg",
    "wide_resnet",
]
