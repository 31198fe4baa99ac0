"""`python -m icm_api.cli`."""

from icm_api.cli import main

main()
