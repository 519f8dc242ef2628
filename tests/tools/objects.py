"""Save objects of every kind, and load those of another Python: python -m tests.tools.objects save|load FOLDER.

Both print a line for each object. The digests are equal on every Python with the same libraries. `load` checks that each
object is equal to the one that this Python makes.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import ocikit

from tests.support.objects import SAMPLES, assert_same, figure, model


def save(folder: Path) -> int:
    """Save all objects, and print their digests."""
    with ocikit.Session(cache=folder / "cache", progress=False) as session:
        for number, (name, (obj, form)) in enumerate(SAMPLES.items()):
            try:
                print(
                    ocikit.save(f"oci:{folder}/layout:n{number}", obj, "x", format=form, session=session).digest, name
                )
            except ocikit.OcikitError as error:  # old libraries keep less
                print("refused", name, error)
        print(ocikit.save(f"oci:{folder}/layout:figure", figure(), session=session).digest, "matplotlib Figure")
        ocikit.save(f"oci:{folder}/layout:model", model()[0], session=session)
    return 0


def load(folder: Path) -> int:
    """Load all objects, and compare them."""
    wrong = 0
    with ocikit.Session(cache=folder / f"cache-{sys.version_info[1]}", progress=False) as session:
        for number, (name, (obj, _)) in enumerate(SAMPLES.items()):
            try:
                assert_same(ocikit.load(f"oci:{folder}/layout:n{number}", session=session), obj)
            except ocikit.NotFound:
                print("absent", name)
            except (AssertionError, ocikit.OcikitError) as error:
                print("DIFFERENT", name, str(error)[:500])
                wrong += 1
            else:
                print("equal", name)
        fitted, data = model()
        same = np.array_equal(
            ocikit.load(f"oci:{folder}/layout:model", session=session).predict_proba(data), fitted.predict_proba(data)
        )
        print("equal" if same else "DIFFERENT", "scikit-learn LogisticRegression, by its predictions")
        wrong += not same
    return min(wrong, 1)


def main() -> int:
    """Save or load."""
    warnings.simplefilter("error")
    command, folder = sys.argv[1:]
    return {"save": save, "load": load}[command](Path(folder))


if __name__ == "__main__":
    sys.exit(main())
