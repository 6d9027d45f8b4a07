"""The laboratory of mipp: suites, experiments, known distributions and records of measurements.

It is no part of the wheel. Run it from a clone: ``python -m lab list | run | show | report``.
"""
