"""What a written answer says: a number, a letter, an option, or nothing that can be told. Pure text work."""
