"""Tables, figures and the report of a run, from its results and saved images; never imports torch."""

from __future__ import annotations

from coinbench.reports.build import ReportFiles as ReportFiles
from coinbench.reports.build import report as report
from coinbench.reports.tables import print_tables as print_tables
