"""The network, one file per part; `models.uni_adafocus` puts them together."""
