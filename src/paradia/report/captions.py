"""What pictures are called, what to look for in them, and what has to be known to read them."""

from __future__ import annotations

from paradia.report.record import RunRecord, StepLike
from paradia.scan import relaxivities

TITLES = {
    "magnitude": ("Magnitude", "All echoes at one window."),
    "phase": ("Phase", "As measured, wrapped, its sign so that it grows with the field."),
    "unwrapped": (
        "Unwrapped phase",
        "Smooth but for veins and around air; jumps of 2π are errors. All echoes at one window.",
    ),
    "mask": ("Mask", "Outlines on the magnitude of the first echo: orange the mask, blue where the local field holds."),
    "total_field": ("Total field", "Background and tissue together, relative to B0."),
    "noise": ("Field noise", "Standard deviation of the total field."),
    "local_field": ("Local field", "What sources inside the mask make; broad light and dark areas are background that remained."),
    "local_noise": ("Uncertainty of the local field", "Standard deviation as the network judges it: larger beside the edge."),
    "chi": ("Susceptibility χ", "Paramagnetic is bright: veins and deep grey matter."),
    "chi_noise": ("Uncertainty of χ", "Standard deviation as the network judges it: two thirds of the errors are smaller."),
    "residual": (
        "What χ leaves of the field",
        "Noise where all is well; anatomy in it was missed, or that field is no susceptibility's.",
    ),
    "chi_pos": ("Paramagnetic χ+", "Iron is bright: deep grey matter and veins. Calcification and myelin should be dark."),
    "closed_pos": ("χ+ by the closed form", "The same data solved in every voxel, in the same window: compare what the method added."),
    "chi_neg": ("Diamagnetic χ−, as a magnitude", "Myelin and calcification are bright: white matter. Iron and veins should be dark."),
    "closed_neg": ("χ− by the closed form", "Likewise, in the window of χ−."),
    "disagreement": (
        "Disagreement with the closed form",
        "Root mean square difference over both sources: noise that the network took away, and what it knows or gets wrong.",
    ),
    "chi_pos_noise": ("Uncertainty of χ+", "Standard deviation as the network judges it: two thirds of the errors are smaller."),
    "chi_neg_noise": ("Uncertainty of χ−", "Standard deviation as the network judges it."),
    "chi_pos_band": ("How far χ+ follows the relaxivity", "Half of the range of χ+ while both relaxivities go down and up."),
    "chi_neg_band": ("How far χ− follows the relaxivity", "Likewise for χ−."),
    "field_residual": ("What both sources leave of the field", "Noise where all is well."),
    "rate_residual": ("What both sources leave of the rate", "Noise where all is well; anatomy in it is decay of another kind."),
    "r2star": ("R2*", "Transverse relaxation rate of the gradient echoes."),
    "r2": ("R2", "Transverse relaxation rate of the spin echoes."),
    "r2prime": ("R2′", "What of R2* a refocusing pulse brings back: R2* − R2."),
    "swi": ("Susceptibility-weighted image", "Veins and iron are dark; close to air, so is what the phase filter could not follow."),
    "minip": ("Minimum-intensity projection", "The least value over a slab around every slice: veins join up."),
}
"""Heading and what to look for, by the name of the data; the order of the page, χ apart."""

SOURCES = (
    *("chi_pos", "closed_pos", "chi_neg", "closed_neg", "disagreement", "chi_pos_noise", "chi_neg_noise"),
    *("chi_pos_band", "chi_neg_band", "field_residual", "rate_residual"),
)
"""What is shown of a separation."""

TOGETHER = {"closed_pos": "chi_pos", "closed_neg": "chi_neg"}
"""Maps that are shown in the window of another."""

RESULT = ("chi", "chi_noise", "residual", *SOURCES)
"""What is shown first."""

IN_PPB = (
    *("noise", "chi_noise", "local_noise", "residual", "chi_pos_noise", "chi_neg_noise", "chi_pos_band", "chi_neg_band"),
    *("disagreement", "field_residual"),
)
"""Maps in ppm whose numbers are easier to read in parts per billion."""

ZEROS = {
    "whole_brain": "Zero is the mean over the mask.",
    "csf": "Zero is the mean over the fluid of the ventricles.",
    "white_matter": "Zero is the mean over an estimate of deep white matter.",
    "region": "Zero is the mean over a region that was given.",
    "none": "Zero is where the inversion left it: only differences count.",
}
"""What a χ of zero is, by the method of the reference."""

ORIGINS = {
    "r2prime": "R2′ was measured with spin echoes",
    "r2prime_constant": "R2′ was not measured: it is R2* less one R2 for all tissue, a guess that both maps rest on",
    "r2star_qsm": "R2′ was not measured: a fixed share of R2* stands for it, a guess that both maps rest on",
    "sepnet_r2star": "R2′ was not measured: the network judges by R2* what it may be",
}
"""Where the rate of a separation comes from, by the method that decides it."""


def caption(name: str, record: RunRecord) -> str:
    """Say what to look for in a picture, and for a result what its numbers rest on."""
    said = TITLES[name][1]
    steps = {step.stage: step for step in record.steps}
    if name == "chi":
        reference = steps.get("reference")
        return f"{said} {ZEROS.get(reference.method if reference else 'none', '')}".strip()
    if name == "chi_pos" and "separation" in steps:
        return f"{said} {_rests_on(steps['separation'], record)}".strip()
    return said


def _rests_on(separation: StepLike, record: RunRecord) -> str:
    """Say where R2′ and the relaxivities of a separation come from."""
    methods = {step.method for step in record.steps if step.stage == "relaxometry"}
    first = [separation.method] if separation.method in ORIGINS else [name for name in ORIGINS if name in methods]
    told = [ORIGINS[name] for name in first[:1]]
    if {"dr_pos", "dr_neg"} <= separation.settings.keys():
        dr_pos, dr_neg = relaxivities(record.scan, separation.settings["dr_pos"], separation.settings["dr_neg"])
        told.append(f"both maps depend on the relaxivities, Dr+ {dr_pos:.4g} and Dr− {dr_neg:.4g} Hz/ppm")
    return f"{'; '.join(told)}." if told else ""
