"""The command line: thin verbs over the public API, one file for each group of them."""

# Importing a file adds its verbs, in the order in which the help lists them.
from isogrid.cli import job as job  # isort: skip
from isogrid.cli import analysing as analysing  # isort: skip
from isogrid.cli import checking as checking  # isort: skip
from isogrid.cli import files as files  # isort: skip
from isogrid.cli import running as running  # isort: skip
from isogrid.cli import machine as machine  # isort: skip
from isogrid.cli.answering import main as main
from isogrid.cli.answering import run as _run  # noqa: F401
