"""The laws that every method, metric, data set and generator keeps, as a suite that reports in words."""

from coinbench.conformance.report import Finding as Finding
from coinbench.conformance.report import Report as Report
