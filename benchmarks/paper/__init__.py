"""What `paper_tables.py` is made of: runs of one recipe with several seeds, certifiers of each, tables over them."""
