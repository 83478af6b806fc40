"""The everyday mistakes, as forums, notebooks and checklists know them."""
