"""Names, titles and number formats that people read in a report."""

from __future__ import annotations

MISSING = "–"  # in place of a figure that a case does not have
DISPLAY_NAMES = {
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS, worst",
    "lpips_mean": "LPIPS, mean",
    "step_error": "step error",
    "sm_clock_mhz": "SM clock (MHz)",
    "memory_clock_mhz": "memory clock (MHz)",
    "temperature_c": "temperature (°C)",
    "energy_j": "energy (J)",
    "power_w": "power (W)",
}
# The two metrics that cases are judged by; the second is a CPU's.
VALUE_TITLES = {"e2e_s": "image time (s)", "eager_ratio": "image time relative to eager, paired"}
VALUE_UNITS = {"e2e_s": "s", "eager_ratio": "× eager"}


def display_name(name: str) -> str:
    """Return the name of a metric for people, with its unit."""
    return DISPLAY_NAMES.get(name, name)


def value_title(metric: str) -> str:
    """Return the axis title of a metric that cases are judged by, or of another one."""
    return VALUE_TITLES.get(metric, metric)


def percent(change: float) -> str:
    """Return a relative change as `+2.0%`, with a minus sign instead of a hyphen."""
    return f"{change:+.1%}".replace("-", "−")
