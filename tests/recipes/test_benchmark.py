from tests.recipes.loading import load

benchmark = load("benchmark")


def test_candidates_are_measured_in_turn_after_a_round_to_warm_up():
    calls = []
    figures = benchmark.in_turn(
        {name: (lambda name=name: calls.append(name) or len(calls)) for name in "ab"}, rounds=2
    )
    assert calls == ["a", "b"] * 3
    assert figures == {"a": [3, 5], "b": [4, 6]}
