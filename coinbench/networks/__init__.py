"""Networks of our own: layers, classifiers, generators, the perceptual net."""
