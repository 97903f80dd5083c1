"""What an adapted backbone has kept of its abilities: bits per byte, accuracy and divergence.

:class:`hycam.evaluation.retention.measure.Retention` gives the ``retention`` of a result file. Its keys:

``tasks``
    by name ``rows``, ``bits_per_byte`` and ``base_bits_per_byte`` (sum of bits over sum of bytes), ``difference`` (mean
    over rows of the row's bits per byte less the base's), ``accuracy``, ``base_accuracy`` (null where rows have one
    answer, or the wrong ones were not scored) and ``items``: row by row the lists ``row`` (identity), ``bits``,
    ``base_bits``, ``bytes``, ``correct`` and ``base_correct``
``kl``
    ``lambada`` and ``replies``, where measured: KL(base || adapted), ``mean`` (nats per token), ``tokens``, ``texts``
``excluded``
    by name, why a requested task is not measured
"""
