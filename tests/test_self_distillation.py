import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_lstsd
from keras_lstsd import LSTSD, SelfDistillation
from keras_lstsd.data import SampleBatches

SAMPLES, CLASSES = 30, 3
draw = np.random.default_rng(0)
X = draw.normal(size=(SAMPLES, 4)).astype("float32")
Y = draw.integers(0, CLASSES, SAMPLES)


def student(last="softmax", units=CLASSES, dropout=0.2):
    return keras.Sequential(
        [
            keras.Input((4,)),
            # Not ReLU, which makes 0 of NaN on some devices.
            layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
            layers.Dense(units, activation=last),
        ]
    )


def compiled(model, **options):
    options = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"} | options
    model.compile(**options)
    return model


def lstsd(**arguments):
    return LSTSD(student(), SAMPLES, **({"mini_generation_epochs": 1} | arguments))


def weights_equal(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# === Training ===


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("cls", [SelfDistillation, LSTSD])
def test_without_weights_training_is_plain_fit_bit_for_bit(cls, jit_compile):
    """Against keras.Model.fit on the same batches, with dropout, L2, clipping and momentum."""

    class Plain(keras.utils.PyDataset):
        def __init__(self, batches):
            super().__init__()
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, step):
            x, *rest = self.batches[step]
            return (x["inputs"], *rest)

    options = {
        "optimizer": keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5),
        "metrics": ["accuracy"],
        "jit_compile": jit_compile,
    }
    settings = {"long_weight": 0, "short_weight": 0} if cls is LSTSD else {}
    weights = np.linspace(0.5, 2, SAMPLES).astype("float32")
    keras.utils.set_random_seed(1)
    model = compiled(cls(student(), SAMPLES, mini_generation_epochs=1, **settings), **options)
    model.fit(X, Y, sample_weight=weights, batch_size=7, epochs=4, verbose=0)
    keras.utils.set_random_seed(1)
    options["optimizer"] = keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5)
    plain = compiled(student(), **options)
    batches = SampleBatches(X, Y, weights, 7, seed=int(model._shuffle_seed.value))
    tell = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: batches.begin_epoch(epoch)
    )
    plain.fit(Plain(batches), epochs=4, verbose=0, shuffle=False, callbacks=[tell])
    weights_equal(model.student, plain)


def test_a_second_fit_goes_on_where_the_first_stopped():
    keras.utils.set_random_seed(1)
    once = compiled(lstsd())
    history = once.fit(X, Y, batch_size=7, epochs=4, verbose=0).history
    keras.utils.set_random_seed(1)
    twice = compiled(lstsd())
    first = twice.fit(X, Y, batch_size=7, epochs=2, verbose=0).history
    second = twice.fit(X, Y, batch_size=7, epochs=4, initial_epoch=2, verbose=0).history
    assert first["loss"] + second["loss"] == history["loss"]
    assert twice.epoch == once.epoch == 3
    weights_equal(once, twice)


def test_seeds_decide():
    def run(seed):
        keras.utils.set_random_seed(seed)
        model = compiled(lstsd())
        return model.fit(X, Y, batch_size=7, epochs=3, verbose=0).history["loss"]

    assert run(1) == run(1) != run(2)


def test_logs_show_guidance_while_training_and_not_in_validation():
    model = compiled(lstsd(), metrics=["accuracy"])
    history = model.fit(X, Y, epochs=3, validation_split=0.2, verbose=0).history
    guidance = {"distillation_loss", "long_term_loss", "short_term_loss", "teacher_coverage"}
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"} | guidance
    assert history["teacher_coverage"] == [0, 1, 1]
    assert history["distillation_loss"][0] == 0 < history["distillation_loss"][1]
    assert set(model.evaluate(X, Y, verbose=0, return_dict=True)) == {"loss", "accuracy"}
    assert len(model.evaluate(X, Y, verbose=0)) == 2


def test_class_weights_reach_the_loss():
    model = compiled(lstsd())
    heavy = model.fit(X, Y, class_weight=dict.fromkeys(range(CLASSES), 0.0), verbose=0).history
    regularization = 0.01 * float(np.sum(model.student.layers[0].get_weights()[0] ** 2))
    np.testing.assert_allclose(heavy["loss"], [regularization], rtol=0.1)


def test_mixed_precision_scales_the_loss_and_trains():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network = student(last=None)
        network.add(layers.Activation("softmax", dtype="float32"))
        model = compiled(LSTSD(network, SAMPLES, mini_generation_epochs=1))
        before = network.get_weights()[0]
        history = model.fit(X, Y, epochs=3, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.short_term.rows.dtype == "float32"
    assert 0.5 < history["loss"][-1] < 3
    assert np.abs(network.get_weights()[0] - before).max() > 1e-4


def test_a_student_that_is_not_built_is_built_by_fit():
    network = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(3)])
    model = LSTSD(network, SAMPLES, mini_generation_epochs=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(model, loss=loss).fit(X, Y, epochs=2, verbose=0)
    assert model.pending.numpy()[1].all()


def test_a_subclassed_student_trains_with_from_logits():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(CLASSES)

        def call(self, x):
            return self.dense(x)

    with pytest.raises(ValueError, match="pass `from_logits=True`"):
        compiled(LSTSD(Net(), SAMPLES)).fit(X, Y)
    model = LSTSD(Net(), SAMPLES, from_logits=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(model, loss=loss).fit(X, Y, verbose=0)
    assert model.pending.numpy()[1].all()
    network = Net()
    network(X)
    assert LSTSD(network, SAMPLES, from_logits=True).pending.rows.shape == (SAMPLES + 1, CLASSES)


def test_a_subclassed_student_takes_a_dict():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(CLASSES)

        def call(self, inputs):
            return self.dense(inputs["a"] + inputs["b"])

    x = {"a": X, "b": X}
    model = LSTSD(Net(), SAMPLES, from_logits=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(model, loss=loss).fit(x, Y, verbose=0)
    assert model.pending.numpy()[1].all()


def test_evaluation_and_prediction_change_nothing_and_take_both_layouts():
    model = compiled(lstsd(), metrics=["accuracy"])
    model.fit(X, Y, epochs=2, verbose=0)
    before = [variable.numpy() for variable in model.variables]
    indexed = {"inputs": X, "sample_index": np.arange(SAMPLES, dtype="int32")}
    assert model.evaluate(X, Y, verbose=0) == model.evaluate(indexed, Y, verbose=0)
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.predict(indexed, verbose=0))
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.student.predict(X, verbose=0))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_tables_memory_is_told_once(capsys):
    model = compiled(LSTSD(student(), 2**20 // 12 - 1))
    model.fit(X, Y, epochs=2, verbose=2)
    model.fit(X, Y, verbose=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "MiB" in line]
    assert len(lines) == 1
    assert lines[0].endswith("x 3 classes in 3 tables: 3.0 MiB.")


# === Data ===


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["tensor", "dict", "tuple"])
def test_a_dataset_with_an_index_trains_as_arrays_do(kind):
    import tensorflow as tf

    inputs = keras.Input((4,), name="a")
    output = layers.Dense(CLASSES, activation="softmax")(inputs)
    wrap = {"tensor": lambda x: x, "dict": lambda x: {"a": x}, "tuple": lambda x: (x,)}[kind]
    found = []
    for arrays in (True, False):
        keras.utils.set_random_seed(0)
        network = keras.Model(wrap(inputs), output)
        network.set_weights([np.ones((4, 3)), np.zeros(3)])
        model = compiled(LSTSD(network, SAMPLES, mini_generation_epochs=1), optimizer="sgd")
        if arrays:
            model.fit(wrap(X), Y, batch_size=7, epochs=3, shuffle=False, verbose=0)
        else:
            data = tf.data.Dataset.from_tensor_slices((wrap(X), Y))
            data = keras_lstsd.data.with_sample_index(data).batch(7)
            model.fit(data, epochs=3, verbose=0, validation_data=(wrap(X), Y))
        found.append(model.get_weights()[:5])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_arrays_may_bring_their_own_index():
    index = np.arange(SAMPLES, dtype="int32")[::-1] + 5
    model = compiled(LSTSD(student(), SAMPLES + 10))
    model.fit({"inputs": X, "sample_index": index}, Y, verbose=0)
    np.testing.assert_array_equal(np.flatnonzero(model.pending.numpy()[1]), index[::-1])


class Told(SelfDistillation):
    """Notes what its step is told of the indices."""

    def remember(self, batch):
        self.was_checked = batch.checked


@pytest.mark.parametrize(
    ("index", "options", "expected"),
    [
        (np.arange(SAMPLES), {}, True),
        (np.arange(SAMPLES)[::-1] + 5, {}, True),
        (np.arange(SAMPLES) // 2, {}, False),
        (np.arange(SAMPLES), {"steps_per_epoch": 3, "batch_size": 10}, True),
        # A batch may hold the end of a pass and the beginning of the next.
        (np.arange(SAMPLES), {"steps_per_epoch": 3, "batch_size": 7}, False),
    ],
)
def test_the_step_looks_at_no_index_that_fit_has_seen_to_be_good(index, options, expected):
    model = compiled(Told(student(), SAMPLES + 10))
    batches = SampleBatches({"inputs": X, "sample_index": index}, Y, **options)
    model.fit(batches, epochs=2, verbose=0)
    assert model.was_checked == expected
    # What draws from them afterwards has seen nothing.
    assert set(batches[0][0]) == {"inputs", "sample_index"}


def test_the_step_looks_at_the_indices_of_a_subclass_that_may_draw_otherwise():
    class Twice(SampleBatches):
        def epoch_order(self):
            return super().epoch_order() // 2 * 2

    model = compiled(Told(student(), SAMPLES))
    model.fit(Twice(X, Y), verbose=0)
    assert not model.was_checked


@pytest.mark.tensorflow
def test_a_column_of_the_users_own_is_no_word_of_fit():
    import tensorflow as tf

    x = {"inputs": X, "sample_index": np.arange(SAMPLES), "checked": np.ones(SAMPLES)}
    with pytest.raises(ValueError, match="must carry the index"):
        compiled(lstsd()).fit(tf.data.Dataset.from_tensor_slices((x, Y)).batch(8))


def test_indices_that_fit_refuses_are_not_taken_for_seen():
    batches = SampleBatches(X, Y)
    with pytest.raises(ValueError, match="from_logits"):
        compiled(Told(student(None), SAMPLES)).fit(batches)
    assert set(batches[0][0]) == {"inputs", "sample_index"}


def test_of_arrays_that_hold_a_sample_twice_the_last_row_is_stored():
    network = keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)])
    model = LSTSD(network, SAMPLES, temperature=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(model, optimizer=keras.optimizers.SGD(0.0), loss=loss)
    x, index = np.concatenate([X, X[:4] + 1]), np.concatenate([np.arange(SAMPLES), np.arange(4)])
    data = {"inputs": x, "sample_index": index}
    model.fit(data, np.zeros(len(x)), batch_size=len(x), shuffle=False, verbose=0)
    z = np.concatenate([x[SAMPLES:], x[4:SAMPLES]]) @ network.get_weights()[0]
    expected = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(model.pending.numpy()[0], expected, atol=1e-5)


@pytest.mark.tensorflow
def test_an_endless_dataset_trains_with_steps_per_epoch():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y))
    data = keras_lstsd.data.with_sample_index(data).shuffle(9).repeat().batch(8)
    model = compiled(lstsd())
    model.fit(data, epochs=3, steps_per_epoch=5, verbose=0)
    assert model.epoch == 2
    assert model.pending.numpy()[1].all()


def test_arrays_train_with_steps_per_epoch():
    model = compiled(lstsd())
    history = model.fit(X, Y, batch_size=8, epochs=3, steps_per_epoch=2, verbose=0).history
    assert model.pending.numpy()[1].all()
    assert history["teacher_coverage"][0] == 0


def test_validation_split_keeps_the_last_samples_out():
    model = compiled(lstsd())
    model.fit(X, Y, validation_split=0.2, verbose=0)
    np.testing.assert_array_equal(model.pending.numpy()[1], np.arange(SAMPLES) < 24)


# === Bad input ===


@pytest.mark.tensorflow
def test_a_dataset_without_index_is_refused_with_the_line_to_write():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7)
    with pytest.raises(ValueError, match=r"with_sample_index\(train\)"):
        compiled(lstsd()).fit(data)


def test_other_data_without_index_is_refused_too():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, step):
            return X, Y

    with pytest.raises(ValueError, match=r"with_sample_index\(train\)"):
        compiled(lstsd()).fit(Batches(), verbose=0)


class Indexed(keras.utils.PyDataset):
    def __init__(self, x, index):
        super().__init__()
        self.x, self.index = x, index

    def __len__(self):
        return 1

    def __getitem__(self, step):
        return {"inputs": self.x, "sample_index": self.index}, Y


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("bad", [-1, SAMPLES, 10**6])
def test_an_index_outside_is_told_at_the_end_of_the_epoch(bad, jit_compile):
    model = compiled(lstsd(), jit_compile=jit_compile)
    index = np.arange(SAMPLES, dtype="int32")
    index[4] = bad
    with pytest.raises(ValueError, match=r"1 samples in epoch 0 .*num_samples=30"):
        model.fit(Indexed(X, index), verbose=0)
    np.testing.assert_array_equal(model.pending.numpy()[1], np.arange(SAMPLES) != 4)


@pytest.mark.parametrize(
    "index", [np.arange(SAMPLES, dtype="float32"), np.arange(SAMPLES)[:, None]]
)
def test_an_index_of_another_dtype_or_shape_is_refused(index):
    with pytest.raises(ValueError, match="Expected: shape=\\(batch,\\), dtype=int32"):
        compiled(lstsd()).fit(Indexed(X, index), verbose=0)


def test_arrays_bring_one_index_for_each_sample():
    data = {"inputs": X, "sample_index": np.arange(SAMPLES)[:, None]}
    with pytest.raises(ValueError, match=r"shape=\(30, 1\). Expected: integers, one for each"):
        compiled(lstsd()).fit(data, Y, verbose=0)


def test_more_samples_than_rows_are_refused():
    with pytest.raises(ValueError, match=r"from 0 to 29.*`LSTSD\(student, num_samples=30\)`"):
        compiled(LSTSD(student(), 29)).fit(X, Y)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_nan_is_told_and_never_taught(jit_compile):
    model = compiled(lstsd(), jit_compile=jit_compile)
    model.fit(X, Y, epochs=2, verbose=0)
    last = model.pending.numpy()[0]
    x = X.copy()
    x[3] = np.nan
    with pytest.raises(ValueError, match="Loss and weights must be finite.*nan in epoch 2"):
        model.fit(x, Y, batch_size=SAMPLES, verbose=0)
    assert not model.pending.numpy()[1].any()
    model.begin_epoch()
    for table in (model.short_term, model.long_term):
        np.testing.assert_array_equal(table.numpy()[0], last)


def test_weights_that_the_last_step_broke_are_told_before_they_are_saved(tmp_path):
    model = lstsd()
    model.compile(keras.optimizers.SGD(np.inf), "sparse_categorical_crossentropy")
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(ValueError, match=r"a mean loss of \d.*in the weights \['.*kernel"):
        model.fit(X, Y, batch_size=SAMPLES, verbose=0, callbacks=[backup])
    assert not list(tmp_path.iterdir())


def test_terminate_on_nan_stops_without_another_error():
    model = compiled(lstsd())
    x = np.full_like(X, np.nan)
    model.fit(x, Y, epochs=3, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert model.epoch == 0
    assert not model.pending.numpy()[1].any()


@pytest.mark.parametrize(
    ("last", "loss"),
    [
        (None, "sparse_categorical_crossentropy"),
        (None, keras.losses.SparseCategoricalCrossentropy()),
        (None, keras.losses.sparse_categorical_crossentropy),
        (None, ["sparse_categorical_crossentropy"]),
        ("softmax", keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    ],
)
def test_a_loss_that_takes_logits_for_probabilities_is_refused(last, loss):
    model = compiled(LSTSD(student(last), SAMPLES), loss=loss)
    with pytest.raises(ValueError, match="Expected: a loss with from_logits="):
        model.fit(X, Y)


def test_losses_of_the_users_own_are_taken():
    def own(y, p):
        return keras.losses.sparse_categorical_crossentropy(y, p)

    for loss in (own, functools.partial(own), keras.losses.Poisson()):
        y = np.eye(CLASSES)[Y] if isinstance(loss, keras.losses.Loss) else Y
        history = compiled(lstsd(), loss=loss).fit(X, y, epochs=2, verbose=0).history
        assert history["distillation_loss"][1] > 0


def test_labels_in_the_wrong_place_and_arguments_keras_refuses_are_refused():
    data = Indexed(X, np.arange(SAMPLES, dtype="int32"))
    with pytest.raises(ValueError, match="Labels come beside arrays, and inside data sets"):
        compiled(lstsd()).fit(data, Y)
    with pytest.raises(ValueError, match="sample_weight"):
        compiled(lstsd()).fit(data, sample_weight=np.ones(SAMPLES))


def test_a_student_that_is_not_built_cannot_come_with_a_generator():
    model = compiled(LSTSD(keras.Sequential([layers.Dense(3)]), SAMPLES))
    assert model.epoch == -1
    with pytest.raises(ValueError, match=r"write `student\(x\[:1\]\)`"):
        model.fit(iter([]))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_every_integer_will_do_as_index(dtype):
    model = compiled(lstsd())
    model.fit(Indexed(X, np.arange(SAMPLES).astype(dtype)), epochs=2, verbose=0)
    assert model.pending.numpy()[1].all()


def test_nan_is_told_also_when_something_else_stops_the_training():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    with pytest.raises(ValueError, match="Loss and weights must be finite"):
        compiled(lstsd()).fit(np.full_like(X, np.nan), Y, verbose=0, callbacks=[Stop()])


def test_what_is_no_student_is_refused():
    with pytest.raises(ValueError, match="`student` is the classifier"):
        LSTSD("resnet", SAMPLES)
    with pytest.raises(ValueError, match="wrapped already"):
        LSTSD(lstsd(), SAMPLES)
    with pytest.raises(ValueError, match="Labels come beside arrays"):
        compiled(lstsd()).fit(X)
    with pytest.raises(ValueError, match="softmax over one unit"):
        LSTSD(student(units=1), SAMPLES)


# === Saving and serving ===


def trained():
    keras.utils.set_random_seed(3)
    model = compiled(lstsd(temperature=3.0), metrics=["accuracy"])
    model.fit(X, Y, batch_size=7, epochs=3, verbose=0)
    return model


def run_python(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wrapper_comes_back_whole(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(again, LSTSD)
    assert (again.temperature, again.num_samples, again.epoch) == (3.0, SAMPLES, 2)
    weights_equal(again, model)
    for first, second in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    continued = [m.fit(X, Y, batch_size=7, epochs=2, verbose=0).history for m in (model, again)]
    assert continued[0] == continued[1]
    weights_equal(again, model)


def test_a_run_resumed_from_a_backup_equals_one_that_went_through(tmp_path):
    keras.utils.set_random_seed(3)
    through = compiled(lstsd())
    through.fit(X, Y, batch_size=7, epochs=4, verbose=0)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path, double_checkpoint=True)

    keras.utils.set_random_seed(3)
    stopped = compiled(lstsd())
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, Y, batch_size=7, epochs=4, verbose=0, callbacks=[backup(), Stop()])
    keras.utils.set_random_seed(99)
    resumed = compiled(lstsd())
    resumed.fit(X, Y, batch_size=7, epochs=4, verbose=0, callbacks=[backup()])
    weights_equal(resumed, through)
    assert len(resumed.fit(X, Y, epochs=2, verbose=0).epoch) == 2


def test_the_student_loads_where_this_library_is_not(tmp_path):
    model = trained()
    model.student.save(tmp_path / "student.keras")
    np.save(tmp_path / "x.npy", X)
    code = """if True:
        import sys
        sys.modules["keras_lstsd"] = None
        import keras, numpy
        student = keras.saving.load_model(sys.argv[1] + "/student.keras")
        numpy.save(sys.argv[1] + "/out.npy", student.predict(numpy.load(sys.argv[1] + "/x.npy")))
    """
    run_python(code, tmp_path)
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), model.predict(X, verbose=0), atol=1e-6
    )


def test_the_length_of_an_epoch_is_said_to_the_batches():
    batches = SampleBatches(X, Y, batch_size=5)
    with pytest.raises(ValueError, match=r"`SampleBatches\(..., steps_per_epoch=2\)`"):
        compiled(lstsd()).fit(batches, steps_per_epoch=2)
