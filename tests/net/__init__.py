"""The network: what both ends agree on, what each decides, and how it is carried out."""
