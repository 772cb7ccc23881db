"""The stages of the data processing, one file each; `order.py` lists them, `contract.py` defines what a stage is."""
