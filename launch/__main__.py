"""`python -m launch` is `launch`."""

from launch.cli.main import main

if __name__ == "__main__":
    main()
