"""Images as users keep them: labelled sets named by their pixels, and seeded splits that share no picture."""

from rrise.images.folders import read_images
from rrise.images.image_set import ImageSet, image_ids, positions
from rrise.images.sources import load_images
from rrise.images.splits import DataConfig, Splits, load_splits

__all__ = ["DataConfig", "ImageSet", "Splits", "image_ids", "load_images", "load_splits", "positions", "read_images"]
