"""What knows nothing of models: errors, layers, sizes, intervals, and rooms for the screen, files and the machine."""
