"""Keeps TensorFlow's start-up messages off the page of ``python -m deel_lip_tf``.

Python imports a package before it runs the package's ``__main__``, and TensorFlow's C++ libraries
write to the process's error stream while they are being loaded, past Python and past
``TF_CPP_MIN_LOG_LEVEL``. So whoever wants a clean page has to act before the first import of
Keras. Nothing here does anything when the package is imported by a script, a notebook or a test.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def started_as_command() -> bool:
    """Whether ``python -m deel_lip_tf`` is what imports the package right now.

    ``sys.argv[0]`` is ``"-m"`` only while Python looks for the module that ``-m`` names.
    """
    return sys.argv[:1] == ["-m"]


def load_backend_quietly() -> None:
    """Imports Keras with the error stream set aside, if this is the command line.

    Who has set ``TF_CPP_MIN_LOG_LEVEL`` has asked for TensorFlow's messages and gets them all.
    If the import fails, what was set aside is written out after all.
    """
    if not started_as_command() or LOG_LEVEL in os.environ:
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
