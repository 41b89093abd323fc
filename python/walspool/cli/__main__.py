"""``python -m walspool.cli`` is the ``walspool`` command."""

from walspool.cli import main

main()
