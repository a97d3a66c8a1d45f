"""PConv, partial convolutions (Liu et al. 2018)."""
