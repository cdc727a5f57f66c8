"""Data sets for federations of hospitals and cities: arrays and tables in, records out.

`registry.load(name, folder)` gives the record of a data set: a `Cohort` of patients or a `Series` of readings. Every record
passes through the `gate`, which refuses what a record may not hold. `partition` deals a record out among clients.

>>> from hetfed_datasets.registry import load
>>> cohort = load("sample-hospitals")
>>> len(cohort), sorted(set(cohort.site.tolist()))
(410, ['east', 'north', 'south', 'west'])
"""
