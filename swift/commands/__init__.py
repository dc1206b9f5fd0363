"""Floor 5: one file per verb; the only place that knows all the rooms and puts them together."""
