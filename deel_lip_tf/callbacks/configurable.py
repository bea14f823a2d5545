"""What the callbacks of this library share."""

from typing import Any

import keras


class Configurable(keras.callbacks.Callback):
    """A callback that `keras.saving` can rebuild from its configuration."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Configurable":
        """Builds the callback from what `get_config` returned."""
        return cls(**config)
