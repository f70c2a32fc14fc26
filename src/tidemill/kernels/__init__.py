"""Exact and fast predictors that flavors may use in place of a library: numbers in, numbers out."""
