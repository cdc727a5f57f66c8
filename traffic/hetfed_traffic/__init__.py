"""hetfed for cities: shared encoders of traffic flow, private heads for each city's own sensors and management."""

from hetfed.vertical import Packaged

vertical = Packaged("traffic", "Cities that forecast together.  Example: hetfed traffic run cities --data-dir data", __name__)
