"""Data sets for federations of hospitals and cities: arrays and tables in, records out."""
