"""How much an optimization changed what is drawn."""
