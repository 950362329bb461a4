import os
import subprocess
import sys

import pytest


def test_the_messages_of_a_failed_import_are_printed():
    code = """
import os, sys

class Fails:
    def find_spec(self, name, path=None, target=None):
        if name == "keras":
            os.write(2, b"written by a library, ")
            sys.exit("no backend")

sys.meta_path.insert(0, Fails())
import recipes
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "written by a library, no backend\n"


@pytest.mark.tensorflow
def test_errors_after_the_import_are_printed():
    code = "import os, recipes; os.write(2, b'an error'); print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (result.stdout, result.stderr) == ("2\n", "an error")
