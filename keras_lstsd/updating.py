"""Updates of variables inside a training step, on TensorFlow and on JAX."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras
from keras import ops


class Updating:
    """The updates of a `Distillation` beside Keras's own; mixed into it."""

    def update(self, network: keras.Model, optimizer: Any, loss: Callable[[], Any]) -> Any:
        """One update of a network's trainable weights, in `before_update` or `after_update`.

        Args:
            network: the network. What else its forward pass changes, such as moving averages, is
                kept.
            optimizer: its optimizer, which is built.
            loss: returns the loss, a scalar.

        Returns:
            The loss; `before_update` returns it, so that the student's update waits for it.
        """
        weights = network.trainable_variables
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = optimizer.scale_loss(loss())
            optimizer.apply(tape.gradient(value, weights), weights)
            return value
        else:
            import jax

            states = network.non_trainable_variables
            variables = self.trainable_variables + self.non_trainable_variables
            mapping = {id(v): (v, ops.convert_to_tensor(v)) for v in variables}

            def value(values):
                new = {id(v): (v, to) for v, to in zip(weights, values, strict=True)}
                state_mapping = [*(mapping | new).values()]
                with keras.StatelessScope(state_mapping, collect_losses=True) as scope:
                    result = optimizer.scale_loss(loss())
                return result, [scope.get_current_value(v) for v in states]

            values = [mapping[id(weight)][1] for weight in weights]
            gradients, after = jax.grad(value, has_aux=True)(values)
            # `apply` of a loss scale assigns in both branches of a condition.
            slots = [ops.convert_to_tensor(slot) for slot in optimizer.variables]
            values, slots = optimizer.stateless_apply(slots, gradients, values)
            variables = [*states, *weights, *optimizer.variables]
            for variable, changed in zip(variables, [*after, *values, *slots], strict=True):
                variable.assign(changed)
            return None  # The state of a JAX step already orders the updates.

    def _after(self, tensor: Any, data: Any) -> Any:
        """The data of a step, which on TensorFlow waits for a tensor.

        TensorFlow orders operations by the variables that they change. It was seen to read a
        variable for a forward pass after an update that did not depend on this pass.
        """
        if tensor is None:
            return data
        import tensorflow as tf

        with tf.control_dependencies([tensor]):
            return keras.tree.map_structure(lambda x: x if x is None else tf.identity(x), data)

    def _changed(self, state: tuple, function: Callable, *arguments: Any) -> tuple:
        """The state of a JAX step after a function that assigns to variables."""
        _, _, *rest = state
        with self._state(state) as scope:
            function(*arguments)
        trainable, non_trainable = (
            [scope.get_current_value(variable) for variable in variables]
            for variables in (self.trainable_variables, self.non_trainable_variables)
        )
        return trainable, non_trainable, *rest

    def _state(self, state: tuple | None = None):
        """A scope in which variables have the values of a step: on JAX those of its state."""
        if state is None:
            return nullcontext()
        trainable, non_trainable, *_ = state
        variables = self.trainable_variables + self.non_trainable_variables
        mapping = list(zip(variables, trainable + non_trainable, strict=True))
        return keras.StatelessScope(state_mapping=mapping)
