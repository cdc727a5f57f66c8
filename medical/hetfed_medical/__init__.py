"""hetfed for hospitals: shared imaging backbones, private gene encoders, fusion and heads."""

from hetfed.vertical import Packaged

vertical = Packaged(
    "medical", "Hospitals that diagnose together.  Example: hetfed medical run glioma-mri --data-dir data", __name__
)
