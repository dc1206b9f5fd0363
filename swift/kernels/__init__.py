"""Floor 1: fast maths under the models. Each kernel has a plain twin and is checked against it."""
