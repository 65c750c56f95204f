# tries: to raise an exception that is called like a success
# verdict: error
# error: passed
class passed(BaseException):  # noqa: N801
    pass


def double(x):
    raise passed("passed")
