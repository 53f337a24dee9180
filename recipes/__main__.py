"""`python -m recipes`: the same as the console command, for launchers such as torchrun and accelerate."""

from recipes.cli import main

if __name__ == "__main__":
    main()
