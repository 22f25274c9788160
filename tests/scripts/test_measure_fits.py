"""Tables of scripts/measure_fits.py."""

from scripts.benchmarks.fit_metrics import METRICS
from scripts.measure_fits import Options, _markdown


def test_the_table_of_the_documentation_holds_means():
    """A metric that a kind lacks is a dash; numbers of subjects are those of each kind."""
    jobs = [("phone", 0), ("phone", 1), ("rig4", 0)]
    results = [{name: value for name in METRICS} | {"s/frame": value} for value in (1.0, 2.0, 4.0)]
    results[2] |= {"depth": None, "gravity": None}
    header, line, phone, rig, *rest = _markdown(jobs, results, Options(kinds=("phone", "rig4"))).splitlines()
    assert not rest and header.startswith("| capture | subjects | vertices, mm |") and line.startswith("| --- |")
    assert phone.split(" | ")[1:] == ["2", "1.5", "1.5", "1.5", "1.5", "1.5", "1.500", "1.5", "1.50 |"]
    assert rig.split(" | ")[1:] == ["1", "4.0", "-", "4.0", "4.0", "4.0", "4.000", "-", "4.00 |"]
