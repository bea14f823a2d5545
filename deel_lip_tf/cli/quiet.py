"""Keeps TensorFlow's start-up messages off the page of ``python -m deel_lip_tf``.

TensorFlow's C++ libraries write to the process's error stream while they are being loaded, past
Python and past ``TF_CPP_MIN_LOG_LEVEL``. So whoever wants a clean page has to act before the first
import of Keras: the commands, which are the first to need it. Nothing here does anything where
Keras is there already.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def load_backend_quietly() -> None:
    """Imports Keras with the error stream set aside.

    Who has set ``TF_CPP_MIN_LOG_LEVEL`` has asked for TensorFlow's messages and gets them all.
    If the import fails, what was set aside is written out after all.
    """
    if "keras" in sys.modules or LOG_LEVEL in os.environ:
        return
    os.environ[LOG_LEVEL] = "3"
    with _error_stream_set_aside():
        import keras  # noqa: F401


@contextlib.contextmanager
def _error_stream_set_aside() -> Iterator[None]:
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(original, aside.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
