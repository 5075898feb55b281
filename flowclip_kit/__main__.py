"""The command line: `python -m flowclip_kit`, or `flowclip` where the package is installed."""


def run() -> None:
    """Run one command and end the process with its code."""
    from flowclip_kit import surroundings

    surroundings.settle()  # before the imports below, which take a second: no signal may meet them unprepared

    from flowclip_kit.cli import main

    surroundings.in_main()
    surroundings.leave(main())


if __name__ == "__main__":
    run()
