"""`python -m eval`: the same as the console command, for launchers such as torchrun and accelerate."""

from eval.cli import main

if __name__ == "__main__":
    main()
