"""Rows of tokens to train and to measure on."""
