"""One model asked, and the files of that."""
