"""A tolerant teacher for generations of students (Yang et al., AAAI 2019)."""

from typing import Any

import keras
from keras import ops

from keras_lstsd.checks import check_share, count
from keras_lstsd.distillation import Distillation
from keras_lstsd.step import Guidance, Step


@keras.saving.register_keras_serializable("keras_lstsd")
class TolerantTeacher(Distillation):
    """Training that keeps probability on secondary classes, for a teacher of later generations.

    With f_(k) the k-th largest softmax score of the network itself and K = `top_k`:

    `loss = eta * compiled + (1 - eta) * (f_(1) - 1 / (K - 1) * sum_{k=2..K} f_(k))`.

    It has no teacher. It is generation 0 of a chain; see `keras_lstsd.generations`.

    Logs: `distillation_loss` (the second term, weighted).

    Args:
        student: a Keras classifier; see `Distillation`.
        eta: share of the compiled loss, in [0, 1]. 0.6 and 0.7 in the paper; 1 is plain training.
        top_k: K, at least 2 and at most the number of classes. 5 on CIFAR-100.
        options: `from_logits`, `guided_output`, `drop_issues_after` and `name`; see `Distillation`.

    Raises:
        ValueError: for an eta outside [0, 1], a K below 2 or above the number of classes.

    Example:
        >>> model = keras_lstsd.TolerantTeacher(student)
        >>> model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> model.fit(x_train, y_train, batch_size=128, epochs=300)

    Source: Yang et al. 2019 ("Training Deep Neural Networks in Generations"), Eq. 4.

    Differences from the paper: none.
    """

    logged = ("distillation_loss",)

    def __init__(
        self,
        student: keras.Model,
        eta: float = 0.6,
        top_k: int = 5,
        **options: Any,
    ):
        super().__init__(student, **options)
        check_share("eta", eta)
        self.eta = eta
        self.top_k = count("top_k", top_k, at_least=2)

    def guidance(self, step: Step) -> Guidance | None:
        """(1 - eta) times the gap of the first score to the mean of the next K - 1."""
        if self.eta == 1:
            return None
        if self.top_k > self.num_classes:
            raise ValueError(
                "`top_k` counts classes. "
                f"Received: top_k={self.top_k} for {self.num_classes} classes. Expected: from 2 to "
                f"{self.num_classes}; write `TolerantTeacher(student, top_k={self.num_classes})`."
            )
        scores, _ = ops.top_k(ops.softmax(step.logits), self.top_k)
        gap = scores[:, 0] - ops.mean(scores[:, 1:], axis=-1)
        return Guidance((1 - self.eta) * gap, self.eta)
