"""Row formats: one module for each family of keys that people write rows with. ``convert`` holds the table of them."""
