"""A study: methods x backbones x folds x settings, run cell by cell, compared with tests, reported with figures."""
