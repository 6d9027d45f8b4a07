"""Pruned models inside other packages: their trainers, their files, their wrappers.

Each module is for one package and is imported by name, such as `mipp.integrations.ultralytics`.
None is imported by ``import mipp``, and each needs its package only when it is used.
"""
