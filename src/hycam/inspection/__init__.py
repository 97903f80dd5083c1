"""What an adapter does: how it routes, what it scales, and how the representations change.

:mod:`hycam.inspection.routing`, :mod:`hycam.inspection.modulation` and :mod:`hycam.inspection.representations`.
"""
