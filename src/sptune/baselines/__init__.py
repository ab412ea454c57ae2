"""The methods that SPT is compared with, and SPT itself, behind one protocol: train, keep in a folder, load as an `SPTModel`."""
