"""TensorFlow's lines stay off the terminal, also those that no variable of the environment stops."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# what a GPU makes TensorFlow say goes the way of XLA's lines, which a processor makes it say, too
COMPILE = """
import tensorflow as tf
tf.config.list_physical_devices()
print(float(tf.function(lambda x: x + 1, jit_compile=True, autograph=False)(tf.ones(()))))
"""
# lines as TensorFlow 2.16 and 2.17 write them where there is a GPU
OF_A_GPU = """\
2024-07-02 10:15:01.908296: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
2024-07-02 10:15:01.925095: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:485] Unable to register
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1719915303.045702   23358 cuda_executor.cc:1015] successful NUMA node read from SysFS had …
I0000 00:00:1719915303.381570   23358 device_compiler.h:188] Compiled cluster using XLA!
W0000 00:00:1719915303.381570   23358 gpu_timer.cc:114] Skipping the delay kernel
"""
KEPT = """\
2024-07-02 10:15:01.908296: F tensorflow/core/platform/cpu_feature_guard.cc:111] compiled to use AVX instructions
terminate called after throwing an instance of 'std::bad_alloc'
F0000 00:00:1719915303.381570   23358 device.cc:1] Check failed
"""


def stderr_of(code: str, returncode: int = 0, **environment: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", "\n".join(["import os, sys", code])]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)
    assert done.returncode == returncode, done.stderr
    return done.stderr


def quiet(code: str) -> str:
    return f"""
from virtual_stain.cli.quiet_tensorflow import QuietTensorFlow
quiet = QuietTensorFlow()
quiet.install()
{code}
print("of Python", file=sys.stderr)
quiet.finish()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """A package of TensorFlow's name, which writes what TensorFlow writes."""
    (tmp_path / "tensorflow.py").write_text(f"import os\nos.write(2, {OF_A_GPU + KEPT!r}.encode())\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def test_xla_said_that_it_was_initialized_although_the_log_level_was_3() -> None:
    assert stderr_of(quiet(COMPILE)) == "of Python\n"


def test_lines_of_a_gpu_are_left_out_and_those_before_an_abort_are_not(stand_in: dict[str, str]) -> None:
    assert stderr_of(quiet("import tensorflow"), **stand_in) == "of Python\n" + KEPT
    assert stderr_of(quiet("import tensorflow; os.abort()"), -6, **stand_in) == KEPT


def test_a_level_that_the_user_has_chosen_stands(stand_in: dict[str, str]) -> None:
    assert OF_A_GPU in stderr_of(quiet("import tensorflow"), TF_CPP_MIN_LOG_LEVEL="0", **stand_in)


def test_nothing_starts_without_tensorflow() -> None:
    assert stderr_of(quiet("assert quiet._filter is None")) == "of Python\n"


def test_where_no_process_may_start_the_command_ended_as_a_bug(stand_in: dict[str, str]) -> None:
    code = quiet("sys.executable = '/no/such/python'\nimport tensorflow")
    shown = stderr_of(code, **stand_in)
    assert shown.startswith(OF_A_GPU)
    assert shown.endswith("of Python\n")
