"""What runs beside each server. Kept free of imports: the supervisor in it must stay small."""
