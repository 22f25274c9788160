"""Body poses by estimators of others (GVHMR, WHAM, TRAM, PromptHMR, 4D-Humans, EasyMocap, AMASS) to start fits from."""

from core.capture.estimates.estimate import Estimate
from core.capture.estimates.readers import read_estimate
from core.capture.estimates.start import starting_bodies

__all__ = ["Estimate", "read_estimate", "starting_bodies"]
