"""The papers' numbers as data, with table, page and protocol. Never imports torch."""

from __future__ import annotations

from coinbench.published.model import Address as Address
from coinbench.published.model import Column as Column
from coinbench.published.model import Line as Line
from coinbench.published.model import Paper as Paper
from coinbench.published.model import PublishedTable as PublishedTable
from coinbench.published.model import Value as Value
from coinbench.published.model import find as find
from coinbench.published.model import label_of as label_of
from coinbench.published.model import papers as papers
from coinbench.published.model import parse_value as parse_value
from coinbench.published.model import read as read
