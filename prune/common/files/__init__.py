"""What is kept on the disk: artefacts, outputs that appear whole, the work of an unfinished run, where numbers came from."""
