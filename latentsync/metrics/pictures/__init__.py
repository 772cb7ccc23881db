"""How good pictures are: against the true ones, as sets, and by themselves."""
