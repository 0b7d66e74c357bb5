"""`python -m jepa_video` is `jepa-video`."""

from .cli import main

raise SystemExit(main())
