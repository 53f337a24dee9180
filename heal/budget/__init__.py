"""What a healing run will take, worked out beforehand."""
