"""Floor 4: a trained model becomes what others load, with proof that it answers alike."""
