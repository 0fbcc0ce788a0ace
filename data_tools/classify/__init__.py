"""Choose text by what it is: train, judge and apply fastText classifiers, and mine more text like a seed."""
