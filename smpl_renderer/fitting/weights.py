"""Factors and scales of the energy terms."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Weights:
    """Lengths in metres, angles in radians. A factor of 1 takes the term as a negative log-likelihood."""

    landmarks: float = 0.5
    landmark_width: float = 4.0
    """Widths are those of robust losses, in standard deviations."""
    bones: float = 0.5
    bone_width: float = 3.0
    outside: float = 30.0
    """The terms of the masks are means over points; the factor is the number of independent ones."""
    outside_sigma: float = 0.02
    outline: float = 30.0
    outline_sigma: float = 0.02
    outline_width: float = 3.0
    fine_sigma: float = 0.02
    """Value of `outline_sigma` and `outside_sigma` in the last stage."""
    fine_width: float = 3.0
    """Value of `outline_width` in the last stage."""
    clearance: float = 1.0
    """Factor on the distances by which cloth lets masks exceed the body."""
    loose_offset: float = 0.03
    """Outlines of a part whose mask exceeds the body by so much more, in the median, count a quarter: loose cloth."""
    match_reach: float = 0.08
    ground: float = 1.0
    ground_sigma: float = 0.02
    balance: float = 0.3
    balance_slack: float = 0.06
    balance_sigma: float = 0.08
    still_speed: float = 0.3
    """Speed in metres per second from which on a foot gives no support, and balance does not count."""
    upright: float = 0.3
    upright_sigma: float = 0.2
    roll_sigma: float = 0.05
    """Standard deviation for a camera whose gravity is unknown; its pitch is ten times as free."""
    prior: float = 0.3
    limits: float = 1.0
    shape: float = 1.0
    scale_sigma: float = 0.1
    """Standard deviation of the logarithm of the body's scale."""
    height_sigma: float = 0.005
    """Standard deviation of the body height, where it is given."""
    common: float = 0.5
    common_sigma: float = 0.15
    common_width: float = 2.0
    initial: float = 1.0
    """Factor of the term that draws fits to the bodies that they start from, where these are given."""
    initial_sigma: float = 0.15
    initial_width: float = 2.0
    smooth: float = 0.3
    smooth_sigma: float = 4.0
    """Standard deviation of accelerations, in metres per second squared."""
    smooth_window: float = 0.25
    """Seconds between frames from which on smoothness does not count."""
    hands: float = 1.0
    hand_sigma: float = 0.2
    rig_sigma: float = 0.01
    rig_loose_offset: float = 0.015
    rig_initial_sigma: float = 0.08
    """Values of `fine_sigma`, `loose_offset` and `initial_sigma` for several cameras: bodies are near most outlines in
    the last stage, and outlines that are still far from them are of loose cloth."""
    refined_width: float = 2.0
    """Value of `fine_width` for several cameras and bodies to start from. Fits to landmarks keep the larger width, as
    calibrations may be some centimetres off."""

    def of_rig(self, refined: bool) -> "Weights":
        """Weights of fits to several cameras; `refined`: of bodies to start from."""
        return replace(
            self,
            fine_sigma=self.rig_sigma,
            fine_width=self.refined_width if refined else self.fine_width,
            loose_offset=self.rig_loose_offset,
            initial_sigma=self.rig_initial_sigma,
        )

    def fine(self) -> "Weights":
        """Weights of the last stage."""
        sigma = self.fine_sigma
        return replace(self, outline_sigma=sigma, outside_sigma=sigma, outline_width=self.fine_width)
