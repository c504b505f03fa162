"""`python -m bulkcert` is `bulkcert`."""

from bulkcert.cli import main

main()
