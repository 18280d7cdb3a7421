"""One file per published method; none imports another. A recipe has `Config`, `PRESETS` and `train`."""
