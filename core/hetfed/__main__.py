"""`python -m hetfed` is the same as `hetfed`."""

from hetfed.cli.main import main

main()
