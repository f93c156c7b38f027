"""Entry point of the command `vitdeblur`; sets the signal handlers before all other imports."""

import sys


def main() -> None:
    from vitdeblur_jax.utils import signals

    signals.listen()
    from vitdeblur_jax.cli.main import main

    sys.exit(main())


if __name__ == "__main__":
    main()
