"""All that this package needs of tests of its own: the fixture comes with coinbench."""


def test_pca_keeps_the_laws_of_a_method(conformance):
    conformance("coinbench_pca:METHOD")
