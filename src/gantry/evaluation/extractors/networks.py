"""The feature extractors by the names that a config's `_target_` uses."""

from gantry.evaluation.extractors.clip import clip
from gantry.evaluation.extractors.dinov2 import dinov2
from gantry.evaluation.extractors.extractor import Extractor, Features, NetworkExtractor
from gantry.evaluation.extractors.inception import inception
from gantry.evaluation.extractors.own import own
from gantry.evaluation.extractors.vgg16 import vgg16

__all__ = ["Extractor", "Features", "NetworkExtractor", "clip", "dinov2", "inception", "own", "vgg16"]
