"""What a policy says of a bill: GO, NO-GO or INCONCLUSIVE."""
