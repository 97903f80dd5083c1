"""The report of a study: one page that needs nothing else, its tables and figures as files, its statistics as JSON.

::

    OUTPUT/report/index.html           everything, self-contained
    OUTPUT/report/tables/NAME.{md,tex,csv}
    OUTPUT/report/figures/NAME.{png,svg}
    OUTPUT/report/statistics.json      every test: of perplexity, and of the generated answers
    OUTPUT/report/study.yaml           every setting, as `hycam study` reads it
"""
