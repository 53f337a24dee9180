"""What knows nothing of models: errors, the terminal, options, files, processes, memory."""
