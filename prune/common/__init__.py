"""What knows nothing of models: errors, layers, sizes, intervals; the screen, files and the machine in rooms of their own."""
