"""What the constraint costs on several replicas, beside the same network in plain Keras.

Logical devices of one CPU, so that nothing gets faster with more of them: what is shown is the work
that replicas do over and over. Seconds are those of the CPU, of all threads, for a training step of
one global batch, the least of five runs. Each number of replicas has a process of its own.

    python benchmarks/replicas.py [steps]
"""

import subprocess
import sys
import time

BATCH, WIDTH, CLASSES, RUNS = 256, 256, 10, 5


def measured(replicas: int, steps: int) -> None:
    """Prints the seconds of a step, of both networks."""
    import keras
    import numpy as np
    import tensorflow as tf

    import deel_lip_tf as lip

    [cpu] = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, parts)
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, WIDTH)).astype("float32")
    y = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, len(x))]
    seconds = []
    for dense in (keras.layers.Dense, lip.layers.SpectralDense):
        with strategy.scope():
            hidden = [dense(WIDTH, activation=lip.layers.GroupSort2()) for _ in range(3)]
            model = keras.Sequential([keras.Input((WIDTH,)), *hidden, dense(CLASSES)])
            model.compile("adam", lip.losses.MulticlassHKR(alpha=10.0), jit_compile=False)
        model.fit(x, y, batch_size=BATCH, verbose=0)
        runs = []
        for _ in range(RUNS):
            start = time.process_time()
            model.fit(x, y, batch_size=BATCH, verbose=0)
            runs.append((time.process_time() - start) / steps)
        seconds.append(min(runs))
    plain, constrained = seconds
    print(
        f"{replicas} replicas: plain {1e3 * plain:.1f} ms, constrained {1e3 * constrained:.1f} ms, "
        f"the constraint {1e3 * (constrained - plain):.1f} ms, {constrained / plain:.2f} times"
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        measured(int(sys.argv[1]), int(sys.argv[2]))
    else:
        for count in ("1", "2", "4"):
            subprocess.run(
                [sys.executable, __file__, count, (sys.argv[1:] or ["40"])[0]], check=True
            )
