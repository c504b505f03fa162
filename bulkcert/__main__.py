"""Makes `python -m bulkcert` the same as the command `bulkcert`."""

from bulkcert.cli import main

main()
