"""Keeping datasets: prove them whole, index other people's tars, write them anew, take parts of them."""
