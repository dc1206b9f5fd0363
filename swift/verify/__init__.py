"""Floor 4: losses held against their papers, fast paths against plain ones. Read ``finding.py`` first."""
