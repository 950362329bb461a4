"""Students of the papers, as functional Keras models without any tie to this library."""

from keras_lstsd.backbones.text_cnn import text_cnn

__all__ = ["text_cnn"]
