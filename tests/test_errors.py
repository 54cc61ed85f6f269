import inspect

from paradia import errors


def test_every_error_is_also_a_builtin():
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.ParadiaError) and error is not errors.ParadiaError:
            assert any(base.__module__ == "builtins" and base is not Exception for base in error.__mro__[:-3]), error


def test_the_tree_in_the_docstring_is_the_tree():
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if error.__module__ == errors.__name__:
            assert name in errors.__doc__


def test_an_unknown_name_reads_as_a_sentence():
    assert str(errors.UnknownMethodError("no such thing")) == "no such thing"


def test_nearest():
    assert errors.nearest("treshold", ["threshold", "weight"]) == "Did you mean 'threshold'?"
    assert errors.nearest("zzz", ["b", "a"]) == "There is: a, b."
    assert errors.nearest("zzz", []) == "There is none."
