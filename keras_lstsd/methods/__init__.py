"""One file per paper."""

from keras_lstsd.methods.lstsd import LSTSD

__all__ = ["LSTSD"]
