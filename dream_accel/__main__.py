"""``python -m dream_accel`` prints the diagnosis."""

from .doctor import main

raise SystemExit(main())
