"""What is kept on the disk: artefacts, outputs that appear whole, unfinished work, where numbers came from."""
