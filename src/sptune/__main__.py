"""`python -m sptune` is the command `sptune`."""

from sptune.cli.main import main

main()
