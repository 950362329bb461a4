import pytest

from recipes import timing


def test_candidates_are_measured_once_a_round_in_random_order():
    calls = []
    figures = timing.in_turn(
        {name: (lambda name=name: calls.append(name) or len(calls)) for name in "abc"}, rounds=20
    )
    rounds = list(zip(*[iter(calls)] * 3, strict=True))
    assert {tuple(sorted(names)) for names in rounds} == {("a", "b", "c")}
    assert len(rounds) == 21
    assert len(set(rounds)) > 3
    for name, values in figures.items():
        # The first round warms up, and is not counted.
        assert values == [1 + n for n, call in enumerate(calls) if call == name][1:]


def test_a_ratio_is_to_plain_training_of_the_same_round():
    row = timing.ratios_row([[2.0, 4.0, 5.0], [3.0, 4.0, 10.0]], unit=0.5)
    assert row == ["8.00", "1.500 (1.000-2.000)"]


def test_median_and_range():
    assert timing.median_and_range([5000.0, 1.0, 70.0]) == ["70", "1 to 5,000"]
    assert timing.median_and_range([1.26, 1.0], 1) == ["1.1", "1.0 to 1.3"]


def test_a_turn_times_no_step_after_a_pause_or_an_epoch_boundary(monkeypatch):
    now, steps = [0.0], 5
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    class Training:
        """A step takes a second; the first after a pause 10, the first of an epoch 100."""

        stop_training = paused = False

        def fit(self, x, batch_size, epochs, verbose, callbacks):
            (callback,) = callbacks
            callback.set_model(self)
            for epoch in range(epochs):
                callback.on_epoch_begin(epoch)
                for batch in range(steps):
                    now[0] += 100 if batch == 0 else 10 if self.paused else 1
                    self.paused = False
                    callback.on_train_batch_end(batch, {"loss": 1.0})
                    if self.stop_training:
                        return

    training = Training()
    turn = timing.Turns(2, training, None, batch_size=1)
    figures = []
    for _ in range(6):
        figures.append(turn())
        training.paused = True
    turn.end()
    assert figures == [1.0] * 6


def test_an_interrupted_step_does_not_change_the_median(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    class Training:
        stop_training = False

        def fit(self, x, batch_size, epochs, verbose, callbacks):
            (callback,) = callbacks
            callback.set_model(self)
            callback.on_epoch_begin(0)
            for batch in range(3, 10**6, 4):  # as with four steps per execution
                now[0] += 800 if batch % 5 == 0 else 8
                callback.on_train_batch_end(batch, {"loss": 1.0})
                if self.stop_training:
                    return

    turn = timing.Turns(20, Training(), None, batch_size=1)
    figures = [turn() for _ in range(6)]
    turn.end()
    assert figures == [2.0] * 6


def test_an_error_in_a_training_is_raised_in_its_turn():
    class Training:
        def fit(self, *data, **options):
            raise ValueError("no such data")

    with pytest.raises(ValueError, match="no such data"):
        timing.Turns(2, Training(), None, batch_size=1)()


@pytest.mark.parametrize(
    ("n", "ranks"), [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (11, (2, 10)), (25, (8, 18))]
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(n, ranks):
    """The ranks of tables of the sign test, e.g. Conover, Practical Nonparametric Statistics."""
    values = list(range(n, 0, -1))
    assert timing.median_interval(values) == ranks
