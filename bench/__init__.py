"""Measurements: `make bench`. Ratios of one run are the result; absolute figures only inform."""
