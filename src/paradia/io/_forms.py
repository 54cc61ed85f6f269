"""The two affines of a NIfTI header, and whether they tell the same."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SAME_SIZE, SAME_ANGLE = 0.01, 1.0
"""Affines whose voxels differ by no more than this share, and whose axes by no more than this angle, degrees, agree."""

SCANNER = 1
"""The code of an affine that leads to the scanner's own axes."""


def contradiction(name: str, header: nib.Nifti1Header) -> tuple[NDArray[np.float64] | None, str]:
    """Tell whether the affines of a header, and its voxel sizes, contradict each other.

    The sform places an image. One that was registered to something else has the scanner's axes, and so B0, in its qform alone.

    Parameters
    ----------
    name
        Of the file, for the sentence.
    header
        Its header.

    Returns
    -------
    ndarray or None
        The qform, where it lies otherwise than the sform and is the only one that is said to be the scanner's.
    str
        What differs, in a sentence; empty where nothing does.
    """
    codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
    with np.errstate(all="ignore"):
        try:
            forms = {form: np.array(getattr(header, f"get_{form}")(), float) for form in codes if codes[form] > 0}
        except (ValueError, nib.spatialimages.HeaderDataError):  # a broken quaternion; the affine that is used was read before
            return None, ""
        if not forms or not all(np.isfinite(form).all() for form in forms.values()):
            return None, ""
        used = next(iter(forms))
        sizes = {form: np.linalg.norm(matrix[:3, :3], axis=0) for form, matrix in forms.items()}
        sizes["pixdim"] = np.array(header.get_zooms()[:3], float)
        for other, size in sizes.items():
            if not np.allclose(size, sizes[used], rtol=SAME_SIZE, atol=0):
                one, two = (" × ".join(f"{v:.4g}" for v in edges) for edges in (sizes[used], size))
                return (
                    None,
                    f"The header of {name} contradicts itself: voxels of {one} by its {used}, which was taken, of {two} by its {other}.",
                )
        if len(forms) < 2:
            return None, ""
        first, second = (forms[form][:3, :3] / sizes[form] for form in ("sform", "qform"))
    angle = float(np.degrees(np.arccos(np.clip((first * second).sum(0), -1, 1))).max())
    if angle <= SAME_ANGLE:
        return None, ""
    said = f"The axes of the sform and the qform of {name} lie {angle:.3g}° apart"
    if codes["qform"] == SCANNER and codes["sform"] != SCANNER:
        return forms["qform"], f"{said}: B0 is read from the qform, the only one that is said to be the scanner's."
    return None, f"{said}; the sform was taken. Mend the header if it is wrong."
