"""HyCAM as a PEFT method."""

from hycam.tuners.hycam.balance import TrainingStats
from hycam.tuners.hycam.config import HyCAMConfig
from hycam.tuners.hycam.layer import HyCAMLayer
from hycam.tuners.hycam.model import HyCAMModel, last_stats
from hycam.tuners.hycam.packing import packed
from hycam.tuners.registration import register

register(HyCAMConfig, HyCAMModel)

__all__ = ["HyCAMConfig", "HyCAMLayer", "HyCAMModel", "TrainingStats", "last_stats", "packed"]
