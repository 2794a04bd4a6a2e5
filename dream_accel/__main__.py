"""``python -m dream_accel`` is the command line: ``torchrun -m dream_accel distill`` works as well."""

from .cli import main

main()
