"""What people see of every command: the terminal, options, tables, drawings."""
