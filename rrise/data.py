"""Loading images, under the name that scripts know: everything here is :mod:`rrise.images`'s."""

from rrise.images import (
    DataConfig,
    ImageSet,
    Splits,
    image_ids,
    load_images,
    load_splits,
    positions,
    read_images,
)

__all__ = ["DataConfig", "ImageSet", "Splits", "image_ids", "load_images", "load_splits", "positions", "read_images"]
