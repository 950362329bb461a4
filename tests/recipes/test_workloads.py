import keras

from recipes.workloads import STUDENTS, in_precision


def test_a_model_of_a_precision_leaves_the_precision_of_others_alone():
    model = in_precision("mixed_bfloat16", STUDENTS["mlp"], "plain", 128)
    assert model.layers[0].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
